//! Processors that execute nothing.

use super::client::Client;
use super::gate::Gate;
use crate::accelerator::{Processors, StateKind, decode, encode};
use crate::{BootRegisters, HypervisorError};
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// A saved processor: that it was one.
#[derive(Debug, Encode, Decode)]
struct IdleState {
    #[n(0)]
    index: u32,
}

pub(super) struct IdleProcessors {
    count: u32,
    gate: Arc<Gate>,
    /// Who stands in for us.
    _client: Arc<Client>,
}

impl IdleProcessors {
    pub(super) fn new(count: u32, gate: Arc<Gate>, client: Arc<Client>) -> Self {
        Self {
            count,
            gate,
            _client: client,
        }
    }
}

impl Processors for IdleProcessors {
    fn count(&self) -> usize {
        self.count as usize
    }

    fn thread_ids(&self) -> Result<Vec<i32>, HypervisorError> {
        #[allow(unsafe_code)]
        // SAFETY: gettid has no preconditions.
        let here = unsafe { libc::gettid() };
        Ok(vec![here; self.count()])
    }

    fn resume(&self) {
        self.gate.open();
    }

    fn pause(&self) {
        self.gate.close();
    }

    fn reset(&self, boot: Option<BootRegisters>) -> Result<(), HypervisorError> {
        if boot.is_some() {
            tracing::warn!(
                "a kernel is in memory and nobody will run it: the accelerator is qtest"
            );
        }
        Ok(())
    }

    fn kind(&self) -> StateKind {
        StateKind {
            model: "qtest-vcpu",
            version: 1,
        }
    }

    fn save(&self) -> Result<Vec<Vec<u8>>, HypervisorError> {
        (0..self.count)
            .map(|index| encode("vCPU", &IdleState { index }))
            .collect()
    }

    fn restore(&self, states: &[Vec<u8>]) -> Result<(), HypervisorError> {
        for (place, state) in (0..self.count).zip(states) {
            let IdleState { index } = decode("vCPU", state)?;
            if index != place {
                return Err(HypervisorError::State {
                    what: "vCPU",
                    reason: format!("number {index} came in the place of number {place}"),
                });
            }
        }
        Ok(())
    }
}
