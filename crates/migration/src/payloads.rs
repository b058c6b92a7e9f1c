//! The devices' states on their way into a machine.

use crate::reason::Reason;
use crate::stream::{DevicePayload, MAX_DEVICE_BYTES, MAX_DEVICES};

/// What a target takes the states of its devices from, each by its name. What is left when all devices have taken theirs
/// belongs to a device the target does not have: the migration is refused, with its name.
#[derive(Debug, Default)]
pub struct DevicePayloads {
    payloads: Vec<DevicePayload>,
    bytes: usize,
}

impl DevicePayloads {
    /// Of the states a source saved; for tests, and for a machine restored without a stream.
    ///
    /// # Errors
    /// As [`DevicePayloads::add`].
    pub fn new(payloads: impl IntoIterator<Item = DevicePayload>) -> Result<Self, Reason> {
        let mut all = Self::default();
        for payload in payloads {
            all.add(payload)?;
        }
        Ok(all)
    }

    /// Adds one.
    ///
    /// # Errors
    /// A second one of a name; more, or larger ones, than any machine has.
    pub fn add(&mut self, payload: DevicePayload) -> Result<(), Reason> {
        if self.payloads.iter().any(|other| other.name == payload.name) {
            return Err(Reason(format!(
                "the state of device '{}' comes twice",
                payload.name
            )));
        }
        self.bytes = self.bytes.saturating_add(payload.bytes.len());
        if self.payloads.len() >= MAX_DEVICES || self.bytes > MAX_DEVICE_BYTES {
            return Err(Reason(format!(
                "more device state than a machine can have: {} devices, {} bytes",
                self.payloads.len() + 1,
                self.bytes
            )));
        }
        self.payloads.push(payload);
        Ok(())
    }

    /// Takes the state of `name`, of a version up to `newest`. `None` when there is none.
    ///
    /// # Errors
    /// A version the device cannot read.
    pub fn take(&mut self, name: &str, newest: u32) -> Result<Option<DevicePayload>, Reason> {
        let Some(at) = self
            .payloads
            .iter()
            .position(|payload| payload.name == name)
        else {
            return Ok(None);
        };
        let payload = self.payloads.remove(at);
        if payload.version > newest {
            return Err(Reason(format!(
                "the state of device '{name}' has version {}, this program reads up to version {newest}: update it \
                 before migrating here",
                payload.version
            )));
        }
        Ok(Some(payload))
    }

    /// Takes the state of `name`, which must be there.
    ///
    /// # Errors
    /// There is none, or as for [`DevicePayloads::take`].
    pub fn require(&mut self, name: &str, newest: u32) -> Result<DevicePayload, Reason> {
        self.take(name, newest)?.ok_or_else(|| {
            Reason(format!(
                "the stream has no state for device '{name}': start the target with the source's devices"
            ))
        })
    }

    /// Names not taken yet.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.payloads.iter().map(|payload| payload.name.as_str())
    }

    /// Number of payloads not taken yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payloads.len()
    }

    /// Whether all are taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty()
    }

    /// All taken, or the reason to refuse the stream.
    ///
    /// # Errors
    /// Names the devices whose state nobody took.
    pub fn finish(&self) -> Result<(), Reason> {
        if self.payloads.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.left().map(|name| format!("'{name}'")).collect();
        Err(Reason(format!(
            "the stream has state for {}, which this machine does not have: start the target with the source's devices",
            names.join(", ")
        )))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn payload(name: &str, version: u32) -> DevicePayload {
        DevicePayload {
            name: name.to_owned(),
            version,
            bytes: vec![1],
        }
    }

    #[test]
    fn each_device_takes_its_own_and_nothing_may_be_left() {
        let mut payloads = DevicePayloads::new([payload("a", 1), payload("b", 3)]).unwrap();
        assert!(payloads.add(payload("a", 1)).is_err());
        assert_eq!(payloads.take("c", 9).unwrap(), None);
        assert!(
            payloads
                .require("c", 9)
                .unwrap_err()
                .0
                .contains("no state for device 'c'")
        );
        assert_eq!(payloads.require("a", 1).unwrap().version, 1);
        assert!(payloads.finish().unwrap_err().0.contains("state for 'b'"));
        assert!(payloads.take("b", 2).unwrap_err().0.contains("version 3"));
        payloads.finish().unwrap();
    }
}
