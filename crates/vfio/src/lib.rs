//! A physical or virtual PCI function passed through by VFIO.
