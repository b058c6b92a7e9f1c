//! Writes that signal an eventfd and do nothing else, as KVM's ioeventfd does it.

use pci::DoorbellWidth;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{PoisonError, RwLock};
use vmm_sys_util::eventfd::EventFd;

struct Doorbell {
    width: DoorbellWidth,
    /// The descriptor as its owner knows it: what it is taken back by.
    owner: i32,
    fd: EventFd,
}

impl Doorbell {
    fn rings(&self, data: &[u8]) -> bool {
        match self.width {
            DoorbellWidth::Any => true,
            DoorbellWidth::Word(value) => data == value.to_le_bytes(),
            DoorbellWidth::Dword(value) => data == value.to_le_bytes(),
        }
    }
}

/// The doorbells of a machine, by guest-physical address.
#[derive(Default)]
pub(super) struct Doorbells(RwLock<BTreeMap<u64, Vec<Doorbell>>>);

impl Doorbells {
    pub(super) fn add(&self, address: u64, width: DoorbellWidth, fd: &EventFd) -> io::Result<()> {
        let doorbell = Doorbell {
            width,
            owner: fd.as_raw_fd(),
            fd: fd.try_clone()?,
        };
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let here = all.entry(address).or_default();
        let clash = |other: &Doorbell| {
            other.width == width || other.width == DoorbellWidth::Any || width == DoorbellWidth::Any
        };
        if here.iter().any(clash) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        here.push(doorbell);
        Ok(())
    }

    pub(super) fn remove(
        &self,
        address: u64,
        width: DoorbellWidth,
        fd: &EventFd,
    ) -> io::Result<()> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let here = all.get_mut(&address).ok_or(io::ErrorKind::NotFound)?;
        let at = here
            .iter()
            .position(|d| d.width == width && d.owner == fd.as_raw_fd())
            .ok_or(io::ErrorKind::NotFound)?;
        here.remove(at);
        if here.is_empty() {
            all.remove(&address);
        }
        Ok(())
    }

    /// Whether a write rings one; it is signalled by then.
    pub(super) fn ring(&self, address: u64, data: &[u8]) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(rung) = all
            .get(&address)
            .and_then(|here| here.iter().find(|d| d.rings(data)))
        else {
            return false;
        };
        // A full count means that the signal is there already.
        let _ = rung.fd.write(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn the_width_and_value_decide_who_is_rung() {
        let (bells, zero, one) = (
            Doorbells::default(),
            EventFd::new(EFD_NONBLOCK).unwrap(),
            EventFd::new(EFD_NONBLOCK).unwrap(),
        );
        bells.add(0x1000, DoorbellWidth::Word(0), &zero).unwrap();
        bells.add(0x1000, DoorbellWidth::Word(1), &one).unwrap();
        assert!(bells.add(0x1000, DoorbellWidth::Any, &one).is_err());
        assert!(bells.ring(0x1000, &[1, 0]));
        assert!(!bells.ring(0x1000, &[2, 0]));
        assert!(!bells.ring(0x1000, &[1, 0, 0, 0]));
        assert!(!bells.ring(0x1002, &[1, 0]));
        assert_eq!(one.read().unwrap(), 1);
        assert!(zero.read().is_err());
        assert!(bells.remove(0x1000, DoorbellWidth::Word(1), &zero).is_err());
        bells.remove(0x1000, DoorbellWidth::Word(1), &one).unwrap();
        assert!(!bells.ring(0x1000, &[1, 0]));
        bells.remove(0x1000, DoorbellWidth::Word(0), &zero).unwrap();
        bells.add(0x1000, DoorbellWidth::Any, &zero).unwrap();
        assert!(bells.ring(0x1000, &[7, 0, 0, 0]));
    }
}
