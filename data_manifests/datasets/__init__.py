"""Released data sets, read in their own layouts and prepared as one store of scene folders (`chorus-data prepare`)."""
