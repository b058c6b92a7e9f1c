//! What a user asks for: QEMU option syntax, declared device properties, the typed configuration.
