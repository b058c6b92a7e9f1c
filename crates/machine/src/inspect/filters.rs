//! Telling clients once that a receive filter changed, until they have looked at it: a guest may change it as often as it likes.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The NICs whose change was told and not looked at since.
#[derive(Debug, Default)]
pub(crate) struct FilterNews(Mutex<BTreeSet<String>>);

impl FilterNews {
    /// The filter of this NIC changed; whether that is to be told.
    pub(crate) fn changed(&self, nic: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(nic.to_owned())
    }

    /// A client has looked: the next change is news again.
    pub(crate) fn looked_at(&self, nic: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.remove(nic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_between_looks() {
        let news = FilterNews::default();
        assert!(news.changed("net0"));
        assert!(!news.changed("net0"));
        assert!(news.changed("net1"));
        news.looked_at("net0");
        assert!(news.changed("net0"));
        assert!(!news.changed("net1"));
    }
}
