"""Commands of chorus-stage2, one file each."""
