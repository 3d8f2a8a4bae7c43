"""What a device is to kparity: the adapter that every backend subclasses, the registry, who it is, why it refuses."""
