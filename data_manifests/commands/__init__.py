"""Commands of chorus-data, one file each."""
