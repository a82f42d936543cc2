"""What jobs need around them at this hub: environments, datasets, packages."""
