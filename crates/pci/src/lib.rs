//! PCI Express: config space, capabilities, BARs, MSI-X, root ports, hotplug.
