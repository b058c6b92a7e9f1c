//! What Standfast does otherwise on purpose, by name.

/// An intended difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intended {
    /// Its name in the table.
    pub name: &'static str,
    /// Why Standfast does it so.
    pub reason: &'static str,
    /// The differences it explains: patterns of a [`crate::Difference`]'s whole text, in which `*` stands for anything.
    pub patterns: &'static [&'static str],
}

/// Names an intended difference.
macro_rules! intended {
    ($($name:ident = $label:literal, $reason:literal, [$($pattern:literal),+ $(,)?];)+) => {
        $(
            #[doc = $reason]
            pub const $name: Intended = Intended {
                name: $label,
                reason: $reason,
                patterns: &[$($pattern),+],
            };
        )+
        /// All that scenarios list.
        pub const LISTED: &[Intended] = &[$($name),+];
    };
}

intended! {
    CHECKED = "checked-when-given",
        "what is wrong with a hidden primary is refused when it is given, not told when it is plugged, or never",
        [
            "*: exit: QEMU 0, ours 1",
            "*: only QEMU: runs true",
            "*: only QEMU: event SHUTDOWN *",
            "*: only QEMU: stderr \"PROGRAM: warning: nic standby0 has no peer\"",
            "*: only ours: stderr *: failover*primary device *",
            "*: only ours: stderr *cannot be its own standby*",
            "*: device_add.return: only QEMU: {}",
            "*: device_add.error: only ours: *failover*",
            "*: device_add.error: only ours: *Duplicate device ID 'primary0'*",
        ];
    HIDDEN = "hidden-whatever-the-order",
        "a primary on the command line is hidden until the guest accepts its standby, wherever it is listed and whether or not the standby is there",
        [
            "*: only QEMU: stderr \"PROGRAM: warning: nic primary0 has no peer\"",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0]: only QEMU: *primary0*",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[*].address: *, ours -1",
            "*: qom-list.return[primary0]: only QEMU: *",
            "*: qom-get.return: only QEMU: *",
            "*: qom-get.error: only ours: *'/machine/peripheral/primary0' not found*",
            "*: qom-get.return: QEMU false, ours true",
        ];
    DANGLING = "pair-id-checked",
        "a failover_pair_id that names no standby is warned of",
        [
            "*: only ours: stderr *names no virtio-net device with failover=on*",
            "*: only ours: stderr *in failover_pair_id=, which *",
        ];
    REMEDY = "says-what-would-be-right",
        "QEMU's message, and after it what would be right",
        ["*: stderr: ours adds *", "*: device_add.error.desc: ours adds *"];
    ONE_LINE = "one-line",
        "a wrong option is told in one line, with its name",
        [
            "*: only QEMU: stderr \"PROGRAM: unsupported machine type*",
            "*: only QEMU: stderr \"Use -machine help*",
            "*: only ours: stderr *unsupported machine type*",
        ];
    PORT_SLOT = "slot-must-be-0",
        "behind a root port there is only slot 0: QEMU warns, and the guest never finds the device",
        [
            "*: exit: QEMU 0, ours 1",
            "*: only QEMU: runs true",
            "*: only QEMU: event SHUTDOWN *",
            "*: only QEMU: stderr *",
            "*: only ours: stderr *slot 1 is not valid for virtio-net-pci*",
        ];
    CHASSIS = "chassis-by-name",
        "both ports of one chassis and slot are named; QEMU tells an error number",
        ["*: only QEMU: stderr *Can't add chassis slot*", "*: only ours: stderr *is that of 'a' already*"];
    STRING_BOOL = "strings-for-switches",
        "the strings \"on\" and \"off\" are taken for a boolean, as QEMU took them before version 10",
        [
            "*: exit: QEMU 1, ours 0",
            "*: only QEMU: stderr *expected: boolean\"",
            "*: only ours: runs true",
            "*: only ours: event SHUTDOWN *",
            "*: only ours: stderr *has no peer\"",
            "*: device_add.error: only QEMU: *expected: boolean*",
            "*: device_add.return: only ours: {}",
        ];
    IDS = "ids-checked",
        "an id that the command line refuses is refused by the monitor too",
        [
            "*: device_add.return: only QEMU: {}",
            "*: device_add.error: only ours: *expects an identifier*",
            "*: device_add.error.desc: QEMU *, ours \"Parameter 'id' expects an identifier*",
        ];
    SLOT_WORDS = "slot-words",
        "the same refusal of a taken or impossible place, in one of the other words that QEMU has for it",
        ["*: device_add.error.desc: QEMU \"PCI: slot *, ours \"PCI: slot *"];
    EMPTY_ID = "empty-id",
        "an empty id is a device that is not found, as any other unknown one",
        ["*: device_del.error.class: QEMU \"GenericError\", ours \"DeviceNotFound\"", "*: device_del.error.desc: QEMU \" is not a device\", *"];
    DELETE_HIDDEN = "hidden-can-be-deleted",
        "a hidden primary can be deleted",
        [
            "*: device_del.error: only QEMU: *Device 'primary0' not found*",
            "*: device_del.return: only ours: {}",
            "*: only ours: event DEVICE_DELETED *primary0*",
        ];
    REPEAT = "unplug-asked-again",
        "a repeated device_del asks the guest again, which may have missed it; QEMU does so after a second",
        ["*: device_del.error: only QEMU: *already in the process of unplug*", "*: device_del.return: only ours: {}"];
    NO_FD = "nothing-began",
        "a descriptor that was never handed over is refused before a migration begins",
        ["*: query-migrate.return.status: only QEMU: \"failed\"", "*: query-migrate.return.error-desc: only QEMU: *", "*: only QEMU: stderr *File descriptor named*"];
    SOCKET_ADDRESS = "no-socket-address",
        "query-migrate does not repeat the address that the target listens on",
        ["*: query-migrate.return.socket-address: only QEMU: *"];
    SETTINGS = "settings-there-are",
        "only what is there can be set: no post-copy, compression, multifd, throttling, TLS; the hand-over's and the unplug's limits are ours",
        [
            "*: query-migrate-capabilities.return[*]: only QEMU: *",
            "*: query-migrate-parameters.return.*: only QEMU: *",
            "*: query-migrate-parameters.return.*: only ours: *",
            "*: migrate-set-parameters.error.desc: QEMU *expects an integer in the range of*, ours *expects an integer in the range of*",
        ];
    BROADCAST = "broadcast",
        "broadcast-allowed says whether broadcasts are received; QEMU tells the opposite",
        ["*: query-rx-filter.return[*].broadcast-allowed: QEMU false, ours true"];
    ONCE = "negotiated-once",
        "FAILOVER_NEGOTIATED comes once for each time the guest accepts, and not for a refusal",
        ["*: only QEMU: event FAILOVER_NEGOTIATED *"];
    RESET = "hidden-after-reset",
        "after a reset the primary is hidden until the guest accepts again: it may boot something that does not",
        [
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0]: only QEMU: *primary0*",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[*].address: *, ours -1",
            "*: qom-list.return[primary0]: only QEMU: *",
            "*: qom-get.return: only QEMU: *",
            "*: qom-get.error: only ours: *'/machine/peripheral/primary0' not found*",
        ];
    OTHER_ID = "other-primary",
        "after device_del of the primary another one may take its place; QEMU remembers the deleted one",
        [
            "*: device_add.error: only QEMU: *Cannot attach more than one primary*",
            "*: device_add.return: only ours: {}",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0]: only ours: *primary9*",
        ];
    PARKED = "parked-is-out",
        "a primary that the guest has let go of is out of query-pci until it is back; QEMU goes on listing it",
        ["*: query-pci.return[0].devices[*].pci_bridge.devices[0.0]: only QEMU: *primary*"];
    MIGRATING = "pair-frozen-while-migrating",
        "neither device of a pair can be added or deleted while migrating; QEMU lets the primary be",
        [
            "*: device_add.return: only QEMU: {}",
            "*: device_add.error: only ours: *device_add not allowed while migrating*",
            "*: device_del.return: only QEMU: {}",
            "*: device_del.error: only ours: *device_del not allowed while migrating*",
            "*: only ours: event DEVICE_DELETED *primary0*",
        ];
    LOGGED = "failure-logged",
        "a migration that failed is told on standard error, whoever was answered",
        ["*: only ours: stderr \"PROGRAM: Could not create *"];
    PAUSED = "paused-guest-refused",
        "a paused guest cannot let go of its primary: the migration fails with that reason; QEMU waits for ever",
        ["*: only ours: event MIGRATION failed *", "*: only ours: stderr *resume it with 'cont' and try again*", "*: only QEMU: event UNPLUG_PRIMARY *", "*: only QEMU: event MIGRATION cancel*", "*: only QEMU: stderr *"];
    CANCEL_ERROR = "cancel-is-no-error",
        "a cancelled migration has no error; QEMU tells one of its channel's",
        ["*: query-migrate.return.error-desc: only QEMU: *Channel error*", "*: only QEMU: stderr \"PROGRAM: Channel error*"];
    AT_ONCE = "cancelled-at-once",
        "a cancel ends the wait for the guest at once, and a late eject leads to a new plug; QEMU waits 30 s for the guest and warns then",
        ["*: only QEMU: stderr *partially unplugged device on failure\""];
    NO_STATE = "primary-has-no-state",
        "the stream carries no state of a primary, so a target without one loads it; QEMU sends that of an emulated one",
        [
            "target: exit: QEMU 1, ours 0",
            "target: only QEMU: event MIGRATION failed *",
            "target: only QEMU: stderr *",
            "target: only ours: event RESUME *",
            "target: only ours: event MIGRATION completed *",
            "target: only ours: event SHUTDOWN *",
        ];
    LOAD_ERROR = "load-errors",
        "why a stream was refused is said in one line that names the device; the source hears of it, and goes on",
        ["target: only QEMU: stderr *", "target: only ours: stderr \"PROGRAM: load of migration failed: *"];
}

/// What may differ in any scenario: what the board does not have, and what is told beside QEMU's fields. The table tells of it once.
pub const EVERYWHERE: &[Intended] = &[
    Intended {
        name: "chipset",
        reason: "the board has no SATA and no SMBus controller: nothing could be attached to them",
        patterns: &[
            "*: query-pci.return[0].devices[31.2]: only QEMU: *",
            "*: query-pci.return[0].devices[31.3]: only QEMU: *",
        ],
    },
    Intended {
        name: "port-msi",
        reason: "a root port interrupts by MSI, and needs no region for an MSI-X table",
        patterns: &["*: query-pci.return[0].devices[*].regions[0]: only QEMU: *\"size\":4096,*"],
    },
    Intended {
        name: "unplug-time",
        reason: "query-migrate says how long the guest took to let go",
        patterns: &["*: query-migrate.return.failover-unplug-time: only ours: *"],
    },
    Intended {
        name: "own-events",
        reason: "FAILOVER_PATH_CHANGED, FAILOVER_PRIMARY_MISSING and FAILOVER_UNPLUG_FAILED tell where a pair is and why, FAILOVER_STEERING_FAILED what the host's network would not have",
        patterns: &[
            "*: only ours: event FAILOVER_PATH_CHANGED *",
            "*: only ours: event FAILOVER_PRIMARY_MISSING *",
            "*: only ours: event FAILOVER_UNPLUG_FAILED *",
            "*: only ours: event FAILOVER_STEERING_FAILED *",
        ],
    },
];

impl Intended {
    /// Whether it explains this difference.
    pub fn explains(&self, difference: &str) -> bool {
        self.patterns
            .iter()
            .any(|pattern| matches(pattern, difference))
    }
}

/// Whether `text` is `pattern`, where each `*` stands for any text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("a", "a") && !matches("a", "ab") && !matches("a", "ba"));
        assert!(matches("*: b *", "x: b c") && !matches("*: b *", "x: b"));
        assert!(matches("a*", "a") && matches("a*a", "aa") && !matches("a*a", "a"));
        assert!(matches("*b*d", "abcd") && !matches("*b*d", "abcde"));
    }
}
