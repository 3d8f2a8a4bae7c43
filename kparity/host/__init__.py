"""What is of this machine and no device: the private cache folder, the revision of the code, strings fit for print."""
