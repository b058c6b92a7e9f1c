//! What Standfast does otherwise on purpose, by name.

use crate::scenario::Outcome;

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
            "vm: device_add.return: only QEMU: {}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Duplicate device ID 'primary0'\"}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"failover primary device is not an Ethernet device\"}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"failover: primary device must be in its own PCI slot\"}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Device 'standby0' cannot be its own standby: failover_pair_id= names the virtio-net device with failover=on\"}",
            "vm: exit: QEMU 0, ours 1",
            "vm: only QEMU: runs true",
            "vm: only QEMU: event SHUTDOWN {\"guest\":false,\"reason\":\"host-qmp-quit\"}",
            "vm: only QEMU: stderr \"PROGRAM: warning: nic standby0 has no peer\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-net-pci,id=standby0,bus=root0,failover=on,failover_pair_id=standby0: Device 'standby0' cannot be its own standby: failover_pair_id= names the virtio-net device with failover=on\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-net-pci,id=primary0,bus=root0,failover_pair_id=standby0: PCI: slot 0 function 0 not available for virtio-net-pci, in use by virtio-net-pci,id=standby0\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-rng-pci,id=primary0,bus=root1,failover_pair_id=standby0: failover primary device is not an Ethernet device\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-net-pci,id=primary0,bus=root1,multifunction=on,failover_pair_id=standby0: failover: primary device must be in its own PCI slot\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-net-pci,id=primary0,bus=root1,addr=0.1,failover_pair_id=standby0: failover: primary device must be in its own PCI slot\"",
        ];
    HIDDEN = "hidden-whatever-the-order",
        "a primary on the command line is hidden until the guest accepts its standby, wherever it is listed and whether or not the standby is there",
        [
            "target: qom-get.return: QEMU false, ours true",
            "target: only QEMU: stderr \"PROGRAM: warning: nic primary0 has no peer\"",
            "vm: qom-list.return[primary0]: only QEMU: {\"name\":\"primary0\",\"type\":\"child<virtio-net-pci>\"}",
            "vm: qom-get.return: only QEMU: \"standby0\"",
            "vm: qom-get.error: only ours: {\"class\":\"DeviceNotFound\",\"desc\":\"Device '/machine/peripheral/primary0' not found\"}",
            "vm: qom-get.return: only QEMU: true",
            "vm: qom-get.return: only QEMU: false",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[*].address: *, ours -1",
            "vm: qom-get.return: QEMU false, ours true",
            "vm: only QEMU: stderr \"PROGRAM: warning: nic primary0 has no peer\"",
        ];
    DANGLING = "pair-id-checked",
        "a failover_pair_id that names no standby is warned of",
        [
            "vm: only ours: stderr \"PROGRAM: warning: failover_pair_id=nope of 'primary0' names no virtio-net device with failover=on; until one is added 'primary0' is no failover primary\"",
            "vm: only ours: stderr \"PROGRAM: warning: primary 'primary0' names 'nope' in failover_pair_id=, which does not exist (yet); until that standby is added it is an ordinary device\"",
            "vm: only ours: stderr \"PROGRAM: warning: failover_pair_id=standby0 of 'primary0' names no virtio-net device with failover=on; until one is added 'primary0' is no failover primary\"",
            "vm: only ours: stderr \"PROGRAM: warning: primary 'primary0' names 'standby0' in failover_pair_id=, which is no standby: a virtio-net-pci with failover=on is needed\"",
            "vm: only ours: stderr \"PROGRAM: warning: primary 'primary0' names 'standby0' in failover_pair_id=, which does not exist (yet); until that standby is added it is an ordinary device\"",
        ];
    REMEDY = "says-what-would-be-right",
        "QEMU's message, and after it what would be right",
        [
            "vm: device_add.error.desc: ours adds \": expected a MAC address such as 52:54:00:12:34:56\" to \"Property 'virtio-net-device.mac' doesn't take value 'nope'\"",
            "vm: device_add.error.desc: ours adds \": expected a slot and function such as 0x1 or 0x1.0x3\" to \"Property 'virtio-net-pci.addr' doesn't take value '99'\"",
            "vm: device_add.error.desc: ours adds \": use -device vfio-pci,host=DDDD:BB:DD.F or sysfsdev=PATH\" to \"No provided host device\"",
            "vm: stderr: ours adds \": expected a MAC address such as 52:54:00:12:34:56\" to \"PROGRAM: -device virtio-net-pci,mac=nope: Property 'virtio-net-device.mac' doesn't take value 'nope'\"",
            "vm: stderr: ours adds \": expected a slot and function such as 0x1 or 0x1.0x3\" to \"PROGRAM: -device virtio-net-pci,addr=77.9: Property 'virtio-net-pci.addr' doesn't take value '77.9'\"",
            "vm: stderr: ours adds \" (-help lists the options)\" to \"PROGRAM: -nope: invalid option\"",
        ];
    ONE_LINE = "one-line",
        "a wrong option is told in one line, with its name",
        [
            "vm: only QEMU: stderr \"PROGRAM: unsupported machine type: \\\"nope\\\"\"",
            "vm: only QEMU: stderr \"Use -machine help to list supported machines\"",
            "vm: only ours: stderr \"PROGRAM: -machine nope: unsupported machine type: \\\"nope\\\" (did you mean 'none'?)\"",
        ];
    PORT_SLOT = "slot-must-be-0",
        "behind a root port there is only slot 0: QEMU warns, and the guest never finds the device",
        [
            "vm: exit: QEMU 0, ours 1",
            "vm: only QEMU: runs true",
            "vm: only QEMU: event SHUTDOWN {\"guest\":false,\"reason\":\"host-qmp-quit\"}",
            "vm: only QEMU: stderr \"PROGRAM: -device virtio-net-pci,bus=root0,addr=1: warning: PCI: slot 1 is not valid for virtio-net-pci, parent device only allows plugging into slot 0.\"",
            "vm: only QEMU: stderr \"PROGRAM: warning: nic virtio-net-pci.0 has no peer\"",
            "vm: only ours: stderr \"PROGRAM: -device virtio-net-pci,bus=root0,addr=1: PCI: slot 1 is not valid for virtio-net-pci, parent device only allows plugging into slot 0.\"",
        ];
    CHASSIS = "chassis-by-name",
        "both ports of one chassis and slot are named; QEMU tells an error number",
        [
            "vm: only QEMU: stderr \"PROGRAM: -device pcie-root-port,id=b,chassis=1,slot=1: Can't add chassis slot, error -16\"",
            "vm: only ours: stderr \"PROGRAM: -device pcie-root-port,id=b,chassis=1,slot=1: pcie-root-port 'b': chassis=1,slot=1 is that of 'a' already, give it another\"",
        ];
    STRING_BOOL = "strings-for-switches",
        "the strings \"on\" and \"off\" are taken for a boolean, as QEMU took them before version 10",
        [
            "vm: device_add.error: only QEMU: {\"class\":\"GenericError\",\"desc\":\"Invalid parameter type for 'failover', expected: boolean\"}",
            "vm: device_add.return: only ours: {}",
            "vm: exit: QEMU 1, ours 0",
            "vm: only QEMU: stderr \"PROGRAM: -device {\\\"driver\\\":\\\"virtio-net-pci\\\",\\\"failover\\\":\\\"on\\\"}: Invalid parameter type for 'failover', expected: boolean\"",
            "vm: only ours: runs true",
            "vm: only ours: event SHUTDOWN {\"guest\":false,\"reason\":\"host-qmp-quit\"}",
            "vm: only ours: stderr \"PROGRAM: warning: nic virtio-net-pci.0 has no peer\"",
        ];
    IDS = "ids-checked",
        "an id that the command line refuses is refused by the monitor too",
        [
            "vm: device_add.return: only QEMU: {}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a letter), not ''\"}",
            "vm: device_add.error.desc: QEMU \"PCI: slot 0 function 0 already occupied by virtio-net-pci, new func virtio-net-pci cannot be exposed to guest.\", ours \"Parameter 'id' expects an identifier (letters, digits, '-', '.', '_', starting with a letter), not '1x'\"",
        ];
    SLOT_WORDS = "slot-words",
        "the same refusal of a taken or impossible place, in one of the other words that QEMU has for it",
        [
            "vm: device_add.error.desc: QEMU \"PCI: slot 0 function 0 not available for virtio-net-pci, in use by virtio-net-pci,id=standby0\", ours \"PCI: slot 0 function 0 already occupied by virtio-net-pci, new func virtio-net-pci cannot be exposed to guest.\"",
            "vm: device_add.error.desc: QEMU \"PCI: slot 0 function 0 already occupied by virtio-net-pci, new func virtio-net-pci cannot be exposed to guest.\", ours \"PCI: slot 1 is not valid for virtio-net-pci, parent device only allows plugging into slot 0.\"",
            "vm: device_add.error.desc: QEMU \"PCI: slot 0 function 0 already occupied by virtio-net-pci, new func virtio-net-pci cannot be exposed to guest.\", ours \"failover: primary device must be in its own PCI slot\"",
        ];
    UNMADE = "refused-unmade",
        "a primary that is refused was never made; QEMU tells of the end of a part of it",
        [
            "vm: only QEMU: event DEVICE_DELETED {\"path\":\"/machine/peripheral/primary0/virtio-backend\"}",
        ];
    EMPTY_ID = "empty-id",
        "an empty id is a device that is not found, as any other unknown one",
        [
            "vm: device_del.error.class: QEMU \"GenericError\", ours \"DeviceNotFound\"",
            "vm: device_del.error.desc: QEMU \" is not a device\", ours \"Device '' not found\"",
        ];
    DELETE_HIDDEN = "hidden-can-be-deleted",
        "a hidden primary can be deleted",
        [
            "target: device_del.error: only QEMU: {\"class\":\"DeviceNotFound\",\"desc\":\"Device 'primary0' not found\"}",
            "target: device_del.return: only ours: {}",
            "target: only ours: event DEVICE_DELETED {\"path\":\"/machine/peripheral/primary0/virtio-backend\"}",
            "target: only ours: event DEVICE_DELETED primary0 {\"device\":\"primary0\",\"path\":\"/machine/peripheral/primary0\"}",
            "vm: device_del.error: only QEMU: {\"class\":\"DeviceNotFound\",\"desc\":\"Device 'primary0' not found\"}",
            "vm: device_del.return: only ours: {}",
            "vm: only ours: event DEVICE_DELETED {\"path\":\"/machine/peripheral/primary0/virtio-backend\"}",
            "vm: only ours: event DEVICE_DELETED primary0 {\"device\":\"primary0\",\"path\":\"/machine/peripheral/primary0\"}",
        ];
    REPEAT = "unplug-asked-again",
        "a repeated device_del asks the guest again, which may have missed it; QEMU does so after a second",
        [
            "vm: device_del.error: only QEMU: {\"class\":\"GenericError\",\"desc\":\"Device standby0 is already in the process of unplug\"}",
            "vm: device_del.return: only ours: {}",
        ];
    OWN_LIMITS = "own-limits",
        "what is done while the guest is waited for, and how long, are parameters, as is the limit of the hand-over",
        [
            "vm: query-migrate-parameters.return.failover-unplug-timeout: only ours: 30000",
            "vm: query-migrate-parameters.return.failover-unplug-policy: only ours: \"abort\"",
            "vm: query-migrate-parameters.return.failover-when-paused: only ours: \"refuse\"",
            "vm: query-migrate-parameters.return.handover-timeout: only ours: 60000",
        ];
    PROMISES = "no-promise",
        "what would be a promise is refused when it is given: another mode, TLS, direct I/O, a capability that is not there; QEMU takes the \
         most of it, and a migration fails then",
        [
            "vm: migrate-set-parameters.return: only QEMU: {}",
            "vm: migrate-set-parameters.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Parameter 'tls-creds' expects '': the stream is not encrypted; send it through a tunnel, by exec: or fd:\"}",
            "vm: migrate-set-parameters.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Parameter 'mode' expects 'normal': guest memory cannot be handed to another program\"}",
            "vm: migrate-set-parameters.error: only ours: {\"class\":\"GenericError\",\"desc\":\"Parameter 'direct-io' expects 'off': files are written through the page cache\"}",
            "vm: migrate-set-capabilities.return: only QEMU: {}",
            "vm: migrate-set-capabilities.error: only ours: {\"class\":\"GenericError\",\"desc\":\"migration capability 'postcopy-ram' is not supported\"}",
            "vm: migrate-set-capabilities.error: only ours: {\"class\":\"GenericError\",\"desc\":\"migration capability 'auto-converge' is not supported\"}",
        ];
    BROADCAST = "broadcast",
        "broadcast-allowed says whether broadcasts are received; QEMU tells the opposite",
        [
            "vm: query-rx-filter.return[standby0].broadcast-allowed: QEMU false, ours true",
        ];
    ONCE = "negotiated-once",
        "FAILOVER_NEGOTIATED comes once for each time the guest accepts, and not for a refusal",
        [
            "vm: only QEMU: event FAILOVER_NEGOTIATED {\"device-id\":\"standby0\"}",
        ];
    RESET = "hidden-after-reset",
        "after a reset the primary is hidden until the guest accepts again: it may boot something that does not",
        [
            "vm: qom-list.return[primary0]: only QEMU: {\"name\":\"primary0\",\"type\":\"child<virtio-net-pci>\"}",
            "vm: qom-get.return: only QEMU: \"standby0\"",
            "vm: qom-get.error: only ours: {\"class\":\"DeviceNotFound\",\"desc\":\"Device '/machine/peripheral/primary0' not found\"}",
            "vm: qom-get.return: only QEMU: true",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[*].address: *, ours -1",
        ];
    OTHER_ID = "other-primary",
        "after device_del of the primary another one may take its place; QEMU remembers the deleted one",
        [
            "vm: device_add.error: only QEMU: {\"class\":\"GenericError\",\"desc\":\"Cannot attach more than one primary device to 'standby0': 'primary0' and 'primary9'\"}",
            "vm: device_add.return: only ours: {}",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0]: only ours: *primary9*",
        ];
    NOWHERE = "kept-nowhere",
        "a primary that the guest has let go of has no addresses in query-pci; QEMU tells those that it had",
        [
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[1].address: QEMU *, ours -1",
            "*: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0].regions[4].address: QEMU *, ours -1",
        ];
    MIGRATING = "pair-frozen-while-migrating",
        "neither device of a pair can be added or deleted while migrating; QEMU lets the primary be",
        [
            "vm: device_add.return: only QEMU: {}",
            "vm: device_add.error: only ours: {\"class\":\"GenericError\",\"desc\":\"device_add not allowed while migrating\"}",
            "vm: device_del.return: only QEMU: {}",
            "vm: device_del.error: only ours: {\"class\":\"GenericError\",\"desc\":\"device_del not allowed while migrating\"}",
            "vm: only ours: event DEVICE_DELETED {\"path\":\"/machine/peripheral/primary0/virtio-backend\"}",
            "vm: only ours: event DEVICE_DELETED primary0 {\"device\":\"primary0\",\"path\":\"/machine/peripheral/primary0\"}",
        ];
    EXIT_STATUS = "exit-status-counts",
        "a command that ends badly has not carried the guest over; QEMU does not look",
        [
            "vm: only QEMU: event MIGRATION completed {\"status\":\"completed\"}",
            "vm: only ours: event MIGRATION failed {\"status\":\"failed\"}",
        ];
    BROKEN = "broken-in-short",
        "that a stream broke is said in the same words, whatever carried it",
        [
            "vm: query-migrate.return.error-desc: QEMU \"Unable to write to command: Broken pipe\", ours \"the connection was lost: Broken pipe\"",
            "vm: only QEMU: stderr \"PROGRAM: Unable to write to command: Broken pipe\"",
            "vm: only ours: stderr \"PROGRAM: the connection was lost: Broken pipe\"",
        ];
    BACK = "back-after-cont",
        "cont on the source of a migration that completed gives the guest its primary back; QEMU goes on listing it, and its slot is empty",
        [
            "vm: qtest inl 0xcc0: QEMU \"OK 0x0000\", ours \"OK 0x0001\"",
            "vm: guest sees.function: QEMU 4294967295, ours 272702196",
        ];
    ALONE = "lpc-alone",
        "the LPC bridge has no other function beside it",
        ["vm: qtest inl 0xcfc: QEMU \"OK 0x800000\", ours \"OK 0x0000\""];
    OFFERED = "fewer-features",
        "neither is a single queue reset (40), nor are offloads switched that a NIC without a netdev does not have (2)",
        [
            "*: only QEMU: feature 2 true",
            "*: only QEMU: feature 40 true",
        ];
    UNASKED = "unasked-eject",
        "a primary that its guest ejects unasked is kept for it; QEMU deletes it",
        [
            "vm: query-pci.return[0].devices[2.0].pci_bridge.devices[0.0]: only ours: *\"qdev_id\":\"primary0\"*",
            "vm: qom-list.return[primary0]: only ours: {\"name\":\"primary0\",\"type\":\"child<virtio-net-pci>\"}",
            "vm: qom-get.error: only QEMU: {\"class\":\"DeviceNotFound\",\"desc\":\"Device '/machine/peripheral/primary0' not found\"}",
            "vm: qom-get.return: only ours: \"standby0\"",
            "vm: qom-get.return: only ours: true",
            "vm: only QEMU: event DEVICE_DELETED {\"path\":\"/machine/peripheral/primary0/virtio-backend\"}",
            "vm: only QEMU: event DEVICE_DELETED primary0 {\"device\":\"primary0\",\"path\":\"/machine/peripheral/primary0\"}",
            "vm: only ours: stderr \"PROGRAM: warning: the primary is not with its guest: the guest removed it by its own choice primary=\\\"primary0\\\" reason=\\\"guest-removed-it\\\"\"",
        ];
    NO_BUTTON = "no-button-at-plug",
        "a native slot tells an arrival by presence and link; QEMU presses its attention button too, which a guest that scans at that \
         moment takes for a removal",
        [
            "vm: guest's slot.button: QEMU true, ours false",
            "target: guest's slot.button: QEMU true, ours false",
        ];
    FRESH = "primary-comes-fresh",
        "the stream carries no state of a primary, which has no addresses until the guest gives it some; QEMU sends that of an emulated one",
        [
            "home: query-pci.return[0].devices[*.0].pci_bridge.devices[0.0].regions[1].address: QEMU *, ours -1",
            "home: query-pci.return[0].devices[*.0].pci_bridge.devices[0.0].regions[4].address: QEMU *, ours -1",
        ];
    NOTHING_BEGAN = "nothing-began",
        "an incoming migration that cannot begin has not begun, and another address can be given; QEMU stays in setup and takes none",
        [
            "target: query-migrate.return.status: only QEMU: \"setup\"",
            "target: only QEMU: event MIGRATION setup {\"status\":\"setup\"}",
        ];
    PAUSED = "paused-guest-refused",
        "a paused guest cannot let go of its primary: the migration fails with that reason; QEMU waits for ever",
        [
            "vm: only QEMU: event UNPLUG_PRIMARY {\"device-id\":\"primary0\"}",
            "vm: only ours: event MIGRATION failed {\"status\":\"failed\"}",
            "vm: only ours: stderr \"PROGRAM: warning: the primary could not be unplugged: the guest is paused and cannot let go of it; resume it with 'cont' and try again *",
            "vm: only ours: stderr \"PROGRAM: failover primary 'primary0' blocks the migration: the guest is paused and cannot let go of it; resume it with 'cont' and try again*",
            // It ends while it waits: how far the cancelling gets is a matter of luck.
            "vm: only QEMU: event MIGRATION cancel*",
        ];
    CANCEL_ERROR = "cancel-is-no-error",
        "a cancelled migration has no error; QEMU tells one of its channel's",
        [
            "vm: query-migrate.return.error-desc: only QEMU: \"Channel error: Input/output error\"",
            "vm: only QEMU: stderr \"PROGRAM: Channel error: Input/output error\"",
        ];
    AT_ONCE = "cancelled-at-once",
        "a cancel ends the wait for the guest at once, and a late eject leads to a new plug; QEMU waits 30 s for the guest and warns then",
        [
            "vm: only QEMU: stderr \"PROGRAM: warning: migration: partially unplugged device on failure\"",
        ];
    NO_STATE = "primary-has-no-state",
        "the stream carries no state of a primary, so a target without one loads it; QEMU sends that of an emulated one",
        [
            "target: exit: QEMU 1, ours 0",
            "target: only QEMU: event MIGRATION failed {\"status\":\"failed\"}",
            "target: only QEMU: stderr \"PROGRAM: Unknown savevm section or instance '0000:00:02.0:00.0/virtio-net' 0. Make sure that your current VM setup matches your saved VM setup, including any hotplugged devices\"",
            "target: only QEMU: stderr \"PROGRAM: load of migration failed: Invalid argument\"",
            "target: only ours: event RESUME null",
            "target: only ours: event MIGRATION completed {\"status\":\"completed\"}",
            "target: only ours: event SHUTDOWN {\"guest\":false,\"reason\":\"host-qmp-quit\"}",
        ];
    FEATURES = "features-by-device",
        "the standby whose features do not fit is named beside them, in one line",
        [
            "target: only QEMU: stderr \"PROGRAM: Features 0x4000000100000020 unsupported. Allowed features: 0x*\"",
            "target: only QEMU: stderr \"PROGRAM: Failed to load virtio-net:virtio\"",
            "target: only QEMU: stderr \"PROGRAM: error while loading state for instance 0x0 of device '0000:00:01.0:00.0/virtio-net'\"",
            "target: only QEMU: stderr \"PROGRAM: load of migration failed: Operation not permitted\"",
            "target: only ours: stderr \"PROGRAM: load of migration failed: virtio-net-pci 'standby0': Features 0x4000000100000020 unsupported. Allowed features: 0x*\"",
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

/// Patterns that explain nothing in any of these outcomes: what they were for is the same by now, or said in another way.
///
/// Meaningful only of all scenarios together.
pub fn idle(outcomes: &[Outcome]) -> Vec<String> {
    let differences: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| &outcome.differences)
        .map(ToString::to_string)
        .collect();
    let mut idle = Vec::new();
    for each in LISTED {
        let patterns = each.patterns.iter();
        let unused =
            patterns.filter(|pattern| !differences.iter().any(|text| matches(pattern, text)));
        idle.extend(unused.map(|pattern| format!("{}: {pattern}", each.name)));
    }
    idle
}

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
