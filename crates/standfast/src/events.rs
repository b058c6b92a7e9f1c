//! The machine's events in the monitors' words.

use machine::{MachineEvent, MachineListener, MigrationNews};
use monitor::types::{FailoverPath, MigrationStatus, ShutdownCause};
use monitor::{Event, EventSink};

use crate::record::Recorder;

/// Hands the machine's events to the monitors, and to the record of failovers.
pub struct EventForwarder {
    sink: EventSink,
    recorder: Recorder,
    rtc_path: String,
}

impl EventForwarder {
    /// To this sink and this record, of a machine whose real-time clock has this path in the tree of objects.
    pub fn new(sink: EventSink, recorder: Recorder, rtc_path: String) -> Self {
        Self {
            sink,
            recorder,
            rtc_path,
        }
    }
}

fn cause(reason: &str) -> ShutdownCause {
    ShutdownCause::from_wire(reason).unwrap_or(ShutdownCause::None)
}

impl MachineListener for EventForwarder {
    fn migration(&self, news: MigrationNews) {
        self.recorder.migration(&news);
    }

    fn event(&self, event: MachineEvent) {
        let event = match event {
            MachineEvent::Stop => Event::Stop,
            MachineEvent::Resume => Event::Resume,
            MachineEvent::Reset(guest) => {
                let reason = if guest {
                    ShutdownCause::GuestReset
                } else {
                    ShutdownCause::HostQmpSystemReset
                };
                Event::Reset { guest, reason }
            }
            MachineEvent::Shutdown { guest, reason } => Event::Shutdown {
                guest,
                reason: cause(reason),
            },
            MachineEvent::Powerdown => Event::Powerdown,
            MachineEvent::RtcChange { offset_s } => Event::RtcChange {
                offset_s,
                qom_path: self.rtc_path.clone(),
            },
            MachineEvent::DeviceDeleted { id, path } => Event::DeviceDeleted { device: id, path },
            MachineEvent::UnplugGuestError { id, path } => Event::DeviceUnplugGuestError {
                device: Some(id),
                path,
            },
            MachineEvent::FailoverNegotiated { id } => Event::FailoverNegotiated { device_id: id },
            MachineEvent::UnplugPrimary { id } => Event::UnplugPrimary { device_id: id },
            MachineEvent::FailoverPathChanged { id, path, reason } => {
                let path = if path == "primary" {
                    FailoverPath::Primary
                } else {
                    FailoverPath::Standby
                };
                Event::FailoverPathChanged {
                    device_id: id,
                    path,
                    reason: reason.to_owned(),
                }
            }
            MachineEvent::FailoverPrimaryMissing {
                standby,
                id,
                reason,
                message,
                retry_ms,
            } => Event::FailoverPrimaryMissing {
                device_id: standby,
                primary_id: id,
                reason: reason.to_owned(),
                message,
                retry_ms,
            },
            MachineEvent::FailoverUnplugFailed {
                standby,
                id,
                reason,
                message,
            } => Event::FailoverUnplugFailed {
                device_id: standby,
                primary_id: id,
                reason: reason.to_owned(),
                message,
            },
            MachineEvent::FailoverSteeringFailed {
                id,
                moment,
                step,
                reason,
            } => Event::FailoverSteeringFailed {
                device_id: id,
                moment: moment.to_owned(),
                step,
                reason,
            },
            MachineEvent::Migration(status) => match MigrationStatus::from_wire(&status) {
                Some(status) => Event::Migration { status },
                None => return,
            },
            MachineEvent::MigrationPass(pass) => Event::MigrationPass {
                pass: i64::try_from(pass).unwrap_or(i64::MAX),
            },
            MachineEvent::RxFilterChanged { id, path } => {
                Event::NicRxFilterChanged { name: id, path }
            }
        };
        self.recorder.event(&event);
        self.sink.emit(event);
    }
}
