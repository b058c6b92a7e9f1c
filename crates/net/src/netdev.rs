//! What every kind of netdev can do beyond carrying a NIC's frames.

use std::io;

use virtio::NetBackend;

/// The host's side of a NIC, of whatever kind.
pub trait Netdev: NetBackend {
    /// The kind as `type=` names it.
    fn kind(&self) -> &'static str;

    /// What `info network` says of it after the kind; may be empty.
    fn describe(&self) -> String;

    /// Sends a whole frame, without header, in the guest's name: an announcement.
    ///
    /// # Errors
    /// It cannot be sent now; it is lost.
    fn announce(&self, frame: &[u8]) -> io::Result<()>;

    /// The interface of the host whose switch can be steered, if it is one.
    fn interface(&self) -> Option<&str> {
        None
    }
}
