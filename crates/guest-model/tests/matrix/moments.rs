//! Where a fault strikes: how far source and target are.

use crate::stage::Halt;

/// What the migration goes through, or with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Course {
    Wire,
    File,
    Command,
    /// As by the wire, with two pairs: what goes wrong with one goes wrong with the second.
    TwoPairs,
}

impl Course {
    /// A table of the page each.
    pub(crate) const TABLES: [&'static [Self]; 3] = [
        &[Self::Wire],
        &[Self::File, Self::Command],
        &[Self::TwoPairs],
    ];

    const fn halts(self) -> &'static [Halt] {
        match self {
            Self::Wire => &[
                Halt::Listening,
                Halt::Setup,
                Halt::WaitUnplug,
                Halt::Active,
                Halt::PreSwitchover,
                Halt::Device,
                Halt::Loaded,
                Halt::Go,
                Halt::Resumed,
                Halt::Plugging,
                Halt::Back,
            ],
            Self::File => &[Halt::WaitUnplug, Halt::PreSwitchover, Halt::Loading],
            Self::Command => &[
                Halt::WaitUnplug,
                Halt::Active,
                Halt::PreSwitchover,
                Halt::Taken,
            ],
            Self::TwoPairs => &[
                Halt::WaitUnplug,
                Halt::Active,
                Halt::Device,
                Halt::Resumed,
                Halt::Plugging,
            ],
        }
    }
}

/// A moment of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) course: Course,
    pub(crate) halt: Halt,
}

impl Moment {
    /// In the page's order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let courses = Course::TABLES.into_iter().flatten().copied();
        courses.flat_map(|course| {
            let halts = course.halts().iter();
            halts.map(move |halt| Self {
                course,
                halt: *halt,
            })
        })
    }

    pub(crate) fn name(self) -> String {
        let halt = match self.halt {
            Halt::Listening => "listening",
            Halt::Setup => "setup",
            Halt::WaitUnplug => "wait-unplug",
            Halt::Active => "active",
            Halt::PreSwitchover => "pre-switchover",
            Halt::Device => "device",
            Halt::Loaded => "loaded",
            Halt::Go => "go",
            Halt::Resumed => "resumed",
            Halt::Plugging => "plugging",
            Halt::Back => "back",
            Halt::Taken => "taken",
            Halt::Loading => "loading",
        };
        let before = match self.course {
            Course::Wire => "",
            Course::File => "file: ",
            Course::Command => "exec: ",
            Course::TwoPairs => "two: ",
        };
        format!("{before}{halt}")
    }

    /// Source and target, in words.
    pub(crate) const fn about(self) -> (&'static str, &'static str) {
        match (self.course, self.halt) {
            (Course::File, Halt::Loading) => {
                ("completed", "is another one, and is about to load the file")
            }
            (Course::File, Halt::WaitUnplug) => {
                ("as wait-unplug, to a file", "loads the file afterwards")
            }
            (Course::File, _) => ("as pre-switchover, to a file", "loads the file afterwards"),
            (Course::Command, Halt::WaitUnplug) => (
                "as wait-unplug; the command has read nothing",
                "loads what the command wrote, afterwards",
            ),
            (Course::Command, Halt::Active) => (
                "sends memory, and the command does not read it yet",
                "as before",
            ),
            (Course::Command, Halt::PreSwitchover) => (
                "as pre-switchover; the command has read all so far",
                "as before",
            ),
            (Course::Command, _) => (
                "waits for the end of the command, which has read everything: it cannot go back",
                "as before",
            ),
            (Course::TwoPairs, Halt::WaitUnplug) => {
                ("has asked its guest for both primaries", "receives: waits")
            }
            (_, Halt::Listening) => ("runs its guest; migrates after the fault", "listens"),
            (_, Halt::Setup) => ("is connected", "receives: its answer is under way"),
            (_, Halt::WaitUnplug) => ("has asked its guest for the primary", "receives: waits"),
            (_, Halt::Active) => ("sends memory; the guest has let go", "receives memory"),
            (_, Halt::PreSwitchover) => (
                "has stopped its guest, and waits for `migrate-continue`",
                "receives: waits",
            ),
            (_, Halt::Device) => (
                "has sent the devices; the last of it is under way",
                "receives",
            ),
            (_, Halt::Loaded) => (
                "waits for the target",
                "has loaded all; its word of it is under way",
            ),
            (_, Halt::Go) => (
                "has said `Go`, which is under way: it cannot go back",
                "waits for `Go`",
            ),
            (_, Halt::Resumed) => ("does not know yet", "runs the guest on its standby"),
            (_, Halt::Back) => ("completed", "runs the guest on its primary"),
            (_, _) => (
                "completed",
                "has the primary in its slot; the guest has not looked",
            ),
        }
    }

    /// A target loads afterwards what was written.
    pub(crate) const fn is_kept(self) -> bool {
        matches!(self.course, Course::File | Course::Command)
    }

    /// There is no target yet.
    pub(crate) const fn before_target(self) -> bool {
        self.is_kept() && !matches!(self.halt, Halt::Loading)
    }

    /// The pair with which something goes wrong.
    pub(crate) const fn pair(self) -> usize {
        matches!(self.course, Course::TwoPairs) as usize
    }

    /// The guest is stopped for the hand-over.
    pub(crate) const fn stopped(self) -> bool {
        matches!(
            self.halt,
            Halt::PreSwitchover
                | Halt::Device
                | Halt::Loaded
                | Halt::Go
                | Halt::Taken
                | Halt::Loading
        )
    }

    /// The guest runs on the target.
    pub(crate) const fn on_target(self) -> bool {
        matches!(self.halt, Halt::Resumed | Halt::Plugging | Halt::Back)
    }

    /// The migration has begun, and the source has not told its end.
    pub(crate) const fn under_way(self) -> bool {
        !matches!(self.halt, Halt::Listening) && !self.has_completed()
    }

    /// The source has told the migration's end.
    pub(crate) const fn has_completed(self) -> bool {
        matches!(self.halt, Halt::Plugging | Halt::Back | Halt::Loading)
    }
}
