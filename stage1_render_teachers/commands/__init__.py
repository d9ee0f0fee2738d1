"""Commands of chorus-stage1, one file each."""
