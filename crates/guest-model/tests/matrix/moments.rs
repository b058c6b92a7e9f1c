//! Where a fault strikes: how far source and target are.

use crate::stage::Halt;

/// A moment, and what the migration goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    Listening,
    Setup,
    WaitUnplug,
    Active,
    PreSwitchover,
    Device,
    Loaded,
    Go,
    Resumed,
    Plugging,
    Back,
    FileWaitUnplug,
    FilePreSwitchover,
}

impl Moment {
    pub(crate) const ALL: [Self; 13] = [
        Self::Listening,
        Self::Setup,
        Self::WaitUnplug,
        Self::Active,
        Self::PreSwitchover,
        Self::Device,
        Self::Loaded,
        Self::Go,
        Self::Resumed,
        Self::Plugging,
        Self::Back,
        Self::FileWaitUnplug,
        Self::FilePreSwitchover,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Setup => "setup",
            Self::WaitUnplug => "wait-unplug",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::Loaded => "loaded",
            Self::Go => "go",
            Self::Resumed => "resumed",
            Self::Plugging => "plugging",
            Self::Back => "back",
            Self::FileWaitUnplug => "file: wait-unplug",
            Self::FilePreSwitchover => "file: pre-switchover",
        }
    }

    /// Source and target, in words.
    pub(crate) const fn about(self) -> (&'static str, &'static str) {
        match self {
            Self::Listening => ("runs its guest; migrates after the fault", "listens"),
            Self::Setup => ("is connected", "receives: its answer is under way"),
            Self::WaitUnplug => ("has asked its guest for the primary", "receives: waits"),
            Self::Active => ("sends memory; the guest has let go", "receives memory"),
            Self::PreSwitchover => (
                "has stopped its guest, and waits for `migrate-continue`",
                "receives: waits",
            ),
            Self::Device => (
                "has sent the devices; the last of it is under way",
                "receives",
            ),
            Self::Loaded => (
                "waits for the target",
                "has loaded all; its word of it is under way",
            ),
            Self::Go => (
                "has said `Go`, which is under way: it cannot go back",
                "waits for `Go`",
            ),
            Self::Resumed => ("does not know yet", "runs the guest on its standby"),
            Self::Plugging => (
                "completed",
                "has the primary in its slot; the guest has not looked",
            ),
            Self::Back => ("completed", "runs the guest on its primary"),
            Self::FileWaitUnplug => ("as wait-unplug, to a file", "loads the file afterwards"),
            Self::FilePreSwitchover => {
                ("as pre-switchover, to a file", "loads the file afterwards")
            }
        }
    }

    pub(crate) const fn to_file(self) -> bool {
        matches!(self, Self::FileWaitUnplug | Self::FilePreSwitchover)
    }

    pub(crate) const fn halt(self) -> Halt {
        match self {
            Self::Listening => Halt::Listening,
            Self::Setup => Halt::Setup,
            Self::WaitUnplug | Self::FileWaitUnplug => Halt::WaitUnplug,
            Self::Active => Halt::Active,
            Self::PreSwitchover | Self::FilePreSwitchover => Halt::PreSwitchover,
            Self::Device => Halt::Device,
            Self::Loaded => Halt::Loaded,
            Self::Go => Halt::Go,
            Self::Resumed => Halt::Resumed,
            Self::Plugging => Halt::Plugging,
            Self::Back => Halt::Back,
        }
    }

    /// The guest is stopped for the hand-over.
    pub(crate) const fn stopped(self) -> bool {
        matches!(
            self.halt(),
            Halt::PreSwitchover | Halt::Device | Halt::Loaded | Halt::Go
        )
    }

    /// The guest runs on the target.
    pub(crate) const fn on_target(self) -> bool {
        matches!(self.halt(), Halt::Resumed | Halt::Plugging | Halt::Back)
    }

    /// The migration has begun, and the source has not told its end.
    pub(crate) const fn under_way(self) -> bool {
        !matches!(self.halt(), Halt::Listening | Halt::Plugging | Halt::Back)
    }

    /// The guest has the primary, or is asked for it.
    pub(crate) const fn has_primary(self) -> bool {
        matches!(
            self.halt(),
            Halt::Listening | Halt::Setup | Halt::WaitUnplug | Halt::Back
        ) || matches!(self.halt(), Halt::Resumed | Halt::Plugging)
    }
}
