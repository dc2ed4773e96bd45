"""From a batch to the gradient of each sample's own loss, module by module."""
