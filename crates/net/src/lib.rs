//! The host side of a NIC: tap, vhost-net, announcing, steering the host's switch.
