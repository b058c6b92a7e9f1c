//! The VM as a whole: version, run state, CPUs, memory, character and block devices.

use crate::qapi::{qapi_enum, qapi_struct};
use serde_json::Value;

qapi_enum! {
    /// What the value of an option's parameter is.
    pub enum CommandLineParameterType {
        /// A text.
        String = "string",
        /// `on` or `off`.
        Boolean = "boolean",
        /// A whole number.
        Number = "number",
        /// A number of bytes, with a suffix.
        Size = "size",
    }

    /// What a job does.
    pub enum JobType {
        /// Merge an image into the one below.
        Commit = "commit",
        /// Copy from the image below.
        Stream = "stream",
        /// Copy to another image, and go on.
        Mirror = "mirror",
        /// Copy as it was.
        Backup = "backup",
        /// Make an image.
        Create = "create",
        /// Change an image's options.
        Amend = "amend",
        /// Load a snapshot.
        SnapshotLoad = "snapshot-load",
        /// Take one.
        SnapshotSave = "snapshot-save",
        /// Delete one.
        SnapshotDelete = "snapshot-delete",
    }

    /// Where a job is in its life.
    pub enum JobStatus {
        /// Nowhere.
        Undefined = "undefined",
        /// Not begun.
        Created = "created",
        /// It works.
        Running = "running",
        /// It stands still.
        Paused = "paused",
        /// It may be completed.
        Ready = "ready",
        /// Both.
        Standby = "standby",
        /// It waits for others.
        Waiting = "waiting",
        /// It waits to be finalized.
        Pending = "pending",
        /// It ends badly.
        Aborting = "aborting",
        /// It has ended.
        Concluded = "concluded",
        /// It is gone.
        Null = "null",
    }

    /// The run states of a VM.
    pub enum RunState {
        /// Debugging.
        Debug = "debug",
        /// A target that waits for the stream.
        InMigrate = "inmigrate",
        /// An error inside.
        InternalError = "internal-error",
        /// Stopped by an I/O error.
        IoError = "io-error",
        /// Stopped by `stop`.
        Paused = "paused",
        /// Stopped because its migration completed.
        PostMigrate = "postmigrate",
        /// Started with `-S` and never resumed.
        Prelaunch = "prelaunch",
        /// Stopped to end a migration.
        FinishMigrate = "finish-migrate",
        /// Stopped to restore a snapshot.
        RestoreVm = "restore-vm",
        /// Running.
        Running = "running",
        /// Stopped to save a snapshot.
        SaveVm = "save-vm",
        /// Shut down, and the process stays (`-no-shutdown`).
        Shutdown = "shutdown",
        /// Suspended by the guest (ACPI S3).
        Suspended = "suspended",
        /// Stopped by the watchdog.
        Watchdog = "watchdog",
        /// The guest panicked.
        GuestPanicked = "guest-panicked",
        /// Stopped for a checkpoint.
        Colo = "colo",
    }

    /// Who asked for a shutdown or a reset.
    pub enum ShutdownCause {
        /// Nobody.
        None = "none",
        /// An error of the host.
        HostError = "host-error",
        /// `quit`.
        HostQmpQuit = "host-qmp-quit",
        /// `system_reset`.
        HostQmpSystemReset = "host-qmp-system-reset",
        /// A signal, as SIGTERM.
        HostSignal = "host-signal",
        /// A user interface.
        HostUi = "host-ui",
        /// The guest powered off.
        GuestShutdown = "guest-shutdown",
        /// The guest reset itself.
        GuestReset = "guest-reset",
        /// The guest panicked.
        GuestPanic = "guest-panic",
        /// A reset inside of the machine.
        SubsystemReset = "subsystem-reset",
        /// A snapshot was loaded.
        SnapshotLoad = "snapshot-load",
    }

    /// What was done about a guest's panic.
    pub enum GuestPanicAction {
        /// The VM is paused.
        Pause = "pause",
        /// The VM is powered off.
        Poweroff = "poweroff",
        /// The VM runs on.
        Run = "run",
    }

    /// How far `query-cpu-model-expansion` goes.
    pub enum CpuModelExpansionType {
        /// To a model that never changes.
        Static = "static",
        /// To every property.
        Full = "full",
    }

    /// What `qmp_capabilities` can switch on.
    pub enum QmpCapability {
        /// Execution out of band.
        Oob = "oob",
    }

    /// The instruction set of a VM.
    pub enum SysEmuTarget {
        /// x86-64.
        X86_64 = "x86_64",
    }
}

qapi_struct! {
    /// Three numbers of a version.
    pub struct VersionTriple {
        /// The micro number.
        micro: u32 = "micro",
        /// The minor number.
        minor: u32 = "minor",
        /// The major number.
        major: u32 = "major",
    }

    /// `query-version`.
    pub struct VersionInfo {
        /// The version of QEMU whose protocol this is.
        qemu: VersionTriple = "qemu",
        /// Name and version of this program.
        package: String = "package",
    }

    /// `query-status`.
    pub struct StatusInfo {
        /// The run state.
        status: RunState = "status",
        /// The vCPUs run.
        running: bool = "running",
    }

    /// `query-name`.
    pub struct NameInfo {
        /// The guest's name as given by `-name`.
        name: Option<String> = "name",
    }

    /// `query-uuid`.
    pub struct UuidInfo {
        /// The UUID, zeros when none was given.
        uuid: String = "UUID",
    }

    /// One command of `query-commands`.
    pub struct CommandInfo {
        /// Its name.
        name: String = "name",
    }

    /// One event of `query-events`.
    pub struct EventInfo {
        /// Its name.
        name: String = "name",
    }

    /// `query-kvm`.
    pub struct KvmInfo {
        /// KVM runs this VM.
        enabled: bool = "enabled",
        /// The host offers KVM.
        present: bool = "present",
    }

    /// `query-target`.
    pub struct TargetInfo {
        /// The instruction set.
        arch: SysEmuTarget = "arch",
    }

    /// One machine of `query-machines`.
    pub struct MachineInfo {
        /// The name, as in `-machine`.
        name: String = "name",
        /// Another name of the same.
        alias: Option<String> = "alias",
        /// It is taken when none is named.
        is_default: Option<bool> = "is-default",
        /// The greatest number of CPUs.
        cpu_max: i64 = "cpu-max",
        /// CPUs can be hotplugged.
        hotpluggable_cpus: bool = "hotpluggable-cpus",
        /// `-numa node,memdev` is known.
        numa_mem_supported: bool = "numa-mem-supported",
        /// It is deprecated.
        deprecated: bool = "deprecated",
        /// The CPU model taken when none is named.
        default_cpu_type: Option<String> = "default-cpu-type",
        /// The id of the memory backend of main memory.
        default_ram_id: Option<String> = "default-ram-id",
        /// ACPI is known.
        acpi: bool = "acpi",
    }

    /// Where a CPU sits.
    #[derive(Default)]
    pub struct CpuInstanceProperties {
        /// NUMA node.
        node_id: Option<i64> = "node-id",
        /// Socket.
        socket_id: Option<i64> = "socket-id",
        /// Die in the socket.
        die_id: Option<i64> = "die-id",
        /// Core in the die.
        core_id: Option<i64> = "core-id",
        /// Thread in the core.
        thread_id: Option<i64> = "thread-id",
    }

    /// One CPU of `query-cpus-fast`.
    pub struct CpuInfoFast {
        /// Its index, from 0.
        cpu_index: i64 = "cpu-index",
        /// Its path in the object tree.
        qom_path: String = "qom-path",
        /// The host's thread that runs it.
        thread_id: i64 = "thread-id",
        /// Where it sits.
        props: Option<CpuInstanceProperties> = "props",
        /// The instruction set.
        target: SysEmuTarget = "target",
    }

    /// One slot of `query-hotpluggable-cpus`.
    pub struct HotpluggableCpu {
        /// The object type to plug there.
        kind: String = "type",
        /// How many vCPUs that makes.
        vcpus_count: i64 = "vcpus-count",
        /// Where it sits.
        props: CpuInstanceProperties = "props",
        /// The object's path when it is plugged.
        qom_path: Option<String> = "qom-path",
    }

    /// One model of `query-cpu-definitions`.
    pub struct CpuDefinitionInfo {
        /// Its name, as in `-cpu`.
        name: String = "name",
        /// It can be migrated.
        migration_safe: Option<bool> = "migration-safe",
        /// It never changes.
        is_static: bool = "static",
        /// What keeps it from running here; absent when nobody asked the host.
        unavailable_features: Option<Vec<String>> = "unavailable-features",
        /// The object type.
        typename: String = "typename",
        /// The model that this name stands for.
        alias_of: Option<String> = "alias-of",
        /// It is deprecated.
        deprecated: bool = "deprecated",
    }

    /// A CPU model with its properties.
    pub struct CpuModelInfo {
        /// Its name.
        name: String = "name",
        /// Its properties.
        props: Option<Value> = "props",
    }

    /// `query-cpu-model-expansion`.
    pub struct CpuModelExpansionInfo {
        /// The model, expanded.
        model: CpuModelInfo = "model",
    }

    /// `query-memory-size-summary`.
    pub struct MemoryInfo {
        /// Main memory in bytes.
        base_memory_bytes: u64 = "base-memory",
        /// Hotplugged memory in bytes.
        plugged_memory_bytes: Option<u64> = "plugged-memory",
    }

    /// One character device of `query-chardev`.
    pub struct ChardevInfo {
        /// Its id.
        label: String = "label",
        /// Where it leads, as `pty:/dev/pts/3` or `disconnected:unix:PATH,server=on`.
        filename: String = "filename",
        /// Its front end is open.
        frontend_open: bool = "frontend-open",
    }

    /// An image of a block device.
    pub struct BlockImageInfo {
        /// The file.
        filename: String = "filename",
        /// The format driver.
        format: String = "format",
        /// Length of what the guest sees, in bytes.
        virtual_size_bytes: u64 = "virtual-size",
    }

    /// The medium of a block device.
    pub struct BlockInserted {
        /// The file.
        file: String = "file",
        /// The name of the node.
        node_name: Option<String> = "node-name",
        /// It cannot be written.
        ro: bool = "ro",
        /// The format driver.
        drv: String = "drv",
        /// The image in the file.
        image: BlockImageInfo = "image",
    }

    /// One block device of `query-block`.
    pub struct BlockInfo {
        /// The drive's id, empty where it has none.
        device: String = "device",
        /// The device's path in the object tree.
        qdev: Option<String> = "qdev",
        /// Unspecific: `unknown`.
        kind: String = "type",
        /// The medium can be removed.
        removable: bool = "removable",
        /// The guest locked the medium.
        locked: bool = "locked",
        /// The medium.
        inserted: Option<BlockInserted> = "inserted",
    }

    /// One node of `query-named-block-nodes`.
    pub struct BlockNodeInfo {
        /// The name of the node.
        node_name: Option<String> = "node-name",
        /// The file.
        file: String = "file",
        /// It cannot be written.
        ro: bool = "ro",
        /// The format driver.
        drv: String = "drv",
    }

    /// One job of `query-jobs`.
    pub struct JobInfo {
        /// Its id.
        id: String = "id",
        /// What it does.
        kind: JobType = "type",
        /// Its state.
        status: JobStatus = "status",
        /// How far it is.
        current_progress: i64 = "current-progress",
        /// How far it has to go.
        total_progress: i64 = "total-progress",
        /// Why it failed.
        error: Option<String> = "error",
    }

    /// One thread of `query-iothreads`.
    pub struct IoThreadInfo {
        /// Its id.
        id: String = "id",
        /// The host's thread.
        thread_id: i64 = "thread-id",
        /// The longest time it polls, in ns.
        poll_max_ns: i64 = "poll-max-ns",
        /// By what the polling time is multiplied when it was too short; 0 is the default.
        poll_grow: i64 = "poll-grow",
        /// By what the polling time is divided when it was too long; 0 is the default.
        poll_shrink: i64 = "poll-shrink",
        /// The most requests it submits at once; 0 is the default.
        aio_max_batch: i64 = "aio-max-batch",
    }

    /// One parameter of an option.
    pub struct CommandLineParameterInfo {
        /// Its name.
        name: String = "name",
        /// What its value is.
        kind: CommandLineParameterType = "type",
        /// What it is for.
        help: Option<String> = "help",
        /// What it is when not given.
        default: Option<String> = "default",
    }

    /// One option of `query-command-line-options`.
    pub struct CommandLineOptionInfo {
        /// Its name, without the dash.
        option: String = "option",
        /// Its parameters.
        parameters: Vec<CommandLineParameterInfo> = "parameters",
    }

    /// A text for a person, from a command whose output promises no form.
    pub struct HumanReadableText {
        /// The text.
        human_readable_text: String = "human-readable-text",
    }

    /// One descriptor of a descriptor set.
    pub struct FdsetFdInfo {
        /// Its number in this process.
        fd: i64 = "fd",
        /// What the client wrote about it.
        opaque: Option<String> = "opaque",
    }

    /// One descriptor set of `query-fdsets`.
    pub struct FdsetInfo {
        /// Its number.
        fdset_id: i64 = "fdset-id",
        /// Its descriptors.
        fds: Vec<FdsetFdInfo> = "fds",
    }

    /// `add-fd`.
    pub struct AddfdInfo {
        /// The set.
        fdset_id: i64 = "fdset-id",
        /// The number in this process.
        fd: i64 = "fd",
    }
}

impl StatusInfo {
    /// The run state `status`; `running` follows from it.
    pub fn new(status: RunState) -> Self {
        Self {
            status,
            running: matches!(status, RunState::Running),
        }
    }
}
