//! vCPUs and the hypervisor's side of guest memory.
