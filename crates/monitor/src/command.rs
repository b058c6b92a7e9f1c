//! The commands, declared once: the declaration reads their arguments, describes them and lists them.
//!
//! [`Command`] is what the machine answers. [`SessionCommand`] is what the monitor answers by itself: negotiation, introspection,
//! descriptors, and the bridge to HMP.

use crate::error::QmpError;
use crate::qapi::{Members, Path, QapiType, describe_member};
use crate::response::Response;
use crate::schema::Schema;
use crate::types::*;
use serde_json::Value;

/// What the table knows about one command.
#[derive(Debug, Clone, Copy)]
pub struct CommandDescription {
    /// The name on the wire.
    pub name: &'static str,
    /// It may be executed out of band.
    pub allow_oob: bool,
    /// What introspection says it can do besides.
    pub features: &'static [&'static str],
    /// Enters the type of its arguments.
    pub describe_arguments: fn(&mut Schema) -> String,
    /// Enters the type of what it returns.
    pub describe_result: fn(&mut Schema) -> String,
    /// The response is of the declared type.
    pub accepts: fn(&Response) -> bool,
}

macro_rules! commands {
    (@decode $name:ident $variant:ident $arguments:ident {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $fwire:literal, )*
    }) => {{
        let mut members = Members::open($arguments, &Path::ROOT)?;
        let command = $name::$variant { $( $field: members.take($fwire)?, )* };
        members.finish()?;
        command
    }};
    (@decode $name:ident $variant:ident $arguments:ident ( $whole:ty )) => {
        $name::$variant(<$whole>::decode($arguments, &Path::ROOT)?)
    };
    (@decode $name:ident $variant:ident $arguments:ident) => {{
        <()>::decode($arguments, &Path::ROOT)?;
        $name::$variant
    }};

    (@describe $wire:literal {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $fwire:literal, )*
    }) => {
        |schema| schema.object(concat!("q_obj_", $wire, "-arg"), |schema| {
            vec![$( describe_member::<$ty>(schema, $fwire), )*]
        })
    };
    (@describe $wire:literal ( $whole:ty )) => { <$whole>::describe };
    (@describe $wire:literal) => { <()>::describe };

    (
        $(#[$emeta:meta])*
        pub enum $name:ident, $table:ident;
        $(
            $(#[$meta:meta])*
            $wire:literal $variant:ident $args:tt => $ret:ty $( [ $($feature:literal),* ] )? $( , oob $oob:literal )? ;
        )*
    ) => {
        commands! { @enum [$(#[$emeta])*] $name [] $( { [$(#[$meta])*] $variant $args } )* }

        impl $name {
            /// The name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant { .. } => $wire, )* }
            }

            /// Reads the arguments of the command of that name; `None` when there is no such command.
            ///
            /// # Errors
            /// The arguments are not those of the command, in QEMU's words.
            pub fn decode(name: &str, arguments: Value) -> Option<Result<Self, QmpError>> {
                match name {
                    $( $wire => Some((|| Ok(commands!(@args_decode $name $variant arguments $args)))()), )*
                    _ => None,
                }
            }
        }

        /// The declarations of these commands, in their order.
        pub static $table: &[CommandDescription] = &[$(
            CommandDescription {
                name: $wire,
                allow_oob: false $( || $oob )?,
                features: &[$( $($feature,)* )?],
                describe_arguments: commands!(@args_describe $wire $args),
                describe_result: <$ret>::describe,
                accepts: |response| <$ret as crate::response::ResponseOf>::accepts(response),
            },
        )*];
    };

    (@args_decode $name:ident $variant:ident $arguments:ident ()) => { commands!(@decode $name $variant $arguments) };
    (@args_decode $name:ident $variant:ident $arguments:ident ( $whole:ty )) => {
        commands!(@decode $name $variant $arguments ( $whole ))
    };
    (@args_decode $name:ident $variant:ident $arguments:ident { $($fields:tt)* }) => {
        commands!(@decode $name $variant $arguments { $($fields)* })
    };
    (@args_describe $wire:literal ()) => { commands!(@describe $wire) };
    (@args_describe $wire:literal ( $whole:ty )) => { commands!(@describe $wire ( $whole )) };
    (@args_describe $wire:literal { $($fields:tt)* }) => { commands!(@describe $wire { $($fields)* }) };

    // The enum is put together variant by variant, because a variant has one of three forms.
    (@enum [$(#[$emeta:meta])*] $name:ident [$($done:tt)*]) => {
        $(#[$emeta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name { $($done)* }
    };
    (@enum $emeta:tt $name:ident [$($done:tt)*] { [$($meta:tt)*] $variant:ident () } $($rest:tt)*) => {
        commands! { @enum $emeta $name [$($done)* $($meta)* $variant,] $($rest)* }
    };
    (@enum $emeta:tt $name:ident [$($done:tt)*] { [$($meta:tt)*] $variant:ident ( $whole:ty ) } $($rest:tt)*) => {
        commands! { @enum $emeta $name [$($done)* $($meta)* $variant($whole),] $($rest)* }
    };
    (@enum $emeta:tt $name:ident [$($done:tt)*] { [$($meta:tt)*] $variant:ident {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $fwire:literal, )*
    } } $($rest:tt)*) => {
        commands! { @enum $emeta $name [$($done)* $($meta)* $variant { $( $(#[$fmeta])* $field: $ty, )* },] $($rest)* }
    };
}

commands! {
    /// A command for the machine.
    pub enum Command, COMMANDS;

    /// The run state.
    "query-status" QueryStatus () => StatusInfo;
    /// The guest's name.
    "query-name" QueryName () => NameInfo;
    /// The guest's UUID.
    "query-uuid" QueryUuid () => UuidInfo;
    /// Whether KVM runs this VM.
    "query-kvm" QueryKvm () => KvmInfo;
    /// The instruction set.
    "query-target" QueryTarget () => TargetInfo;
    /// The machines there are.
    "query-machines" QueryMachines () => Vec<MachineInfo>;
    /// The CPUs.
    "query-cpus-fast" QueryCpusFast () => Vec<CpuInfoFast>;
    /// The slots for CPUs.
    "query-hotpluggable-cpus" QueryHotpluggableCpus () => Vec<HotpluggableCpu>;
    /// The CPU models.
    "query-cpu-definitions" QueryCpuDefinitions () => Vec<CpuDefinitionInfo>;
    /// What a CPU model stands for.
    "query-cpu-model-expansion" QueryCpuModelExpansion {
        /// `static` or `full`.
        kind: CpuModelExpansionType = "type",
        /// The model.
        model: CpuModelInfo = "model",
    } => CpuModelExpansionInfo;
    /// Sizes of memory.
    "query-memory-size-summary" QueryMemorySizeSummary () => MemoryInfo;
    /// The character devices.
    "query-chardev" QueryChardev () => Vec<ChardevInfo>;
    /// The block devices.
    "query-block" QueryBlock () => Vec<BlockInfo>;
    /// The named block nodes.
    "query-named-block-nodes" QueryNamedBlockNodes {
        /// Leave out what is below each node.
        flat: Option<bool> = "flat",
    } => Vec<BlockNodeInfo>;
    /// The jobs.
    "query-jobs" QueryJobs () => Vec<JobInfo>;
    /// The I/O threads.
    "query-iothreads" QueryIothreads () => Vec<IoThreadInfo>;
    /// The options of the command line.
    "query-command-line-options" QueryCommandLineOptions {
        /// Only this one.
        option: Option<String> = "option",
    } => Vec<CommandLineOptionInfo>;
    /// The PCI functions that the guest sees.
    "query-pci" QueryPci () => Vec<PciInfo>;
    /// The receive filters.
    "query-rx-filter" QueryRxFilter {
        /// Only this NIC.
        name: Option<String> = "name",
    } => Vec<RxFilterInfo>;

    /// The children and properties of an object.
    "qom-list" QomList {
        /// Its path.
        path: String = "path",
    } => Vec<ObjectPropertyInfo>;
    /// The value of a property.
    "qom-get" QomGet {
        /// The object's path.
        path: String = "path",
        /// The property.
        property: String = "property",
    } => Value;
    /// Sets a property.
    "qom-set" QomSet {
        /// The object's path.
        path: String = "path",
        /// The property.
        property: String = "property",
        /// Its new value.
        value: Value = "value",
    } => ();
    /// The types there are.
    "qom-list-types" QomListTypes {
        /// Only those that derive from this one.
        implements: Option<String> = "implements",
        /// Abstract types too.
        is_abstract: Option<bool> = "abstract",
    } => Vec<ObjectTypeInfo>;
    /// The properties of a type.
    "qom-list-properties" QomListProperties {
        /// The type.
        typename: String = "typename",
    } => Vec<ObjectPropertyInfo>;
    /// The properties of a device type.
    "device-list-properties" DeviceListProperties {
        /// The type.
        typename: String = "typename",
    } => Vec<ObjectPropertyInfo>;

    /// Adds a device.
    "device_add" DeviceAdd (DeviceOptions) => () ["json-cli", "json-cli-hotplug"];
    /// Asks the guest to let go of a device and then removes it.
    "device_del" DeviceDel {
        /// Its id, or its path in the object tree.
        id: String = "id",
    } => ();
    /// Adds the host's side of a NIC.
    "netdev_add" NetdevAdd (NetdevOptions) => ();
    /// Removes the host's side of a NIC.
    "netdev_del" NetdevDel {
        /// Its id.
        id: String = "id",
    } => ();
    /// Adds an object.
    "object-add" ObjectAdd (ObjectOptions) => ();
    /// Removes an object.
    "object-del" ObjectDel {
        /// Its id.
        id: String = "id",
    } => ();
    /// Takes a NIC's link up or down.
    "set_link" SetLink {
        /// The id of the NIC or of its netdev.
        name: String = "name",
        /// Up.
        up: bool = "up",
    } => ();
    /// Announces the NICs to the network.
    "announce-self" AnnounceSelf (AnnounceParameters) => ();

    /// Stops the vCPUs.
    "stop" Stop () => ();
    /// Lets the vCPUs run.
    "cont" Cont () => ();
    /// Resets the machine.
    "system_reset" SystemReset () => ();
    /// Presses the power button.
    "system_powerdown" SystemPowerdown () => ();
    /// Ends the program.
    "quit" Quit () => ();

    /// Starts a migration.
    "migrate" Migrate {
        /// Where to.
        uri: Option<String> = "uri",
        /// Where to, channel by channel.
        channels: Option<Vec<MigrationChannel>> = "channels",
        /// Accepted, has no effect: QMP always detaches.
        detach: Option<bool> = "detach",
        /// Resume a paused post-copy.
        resume: Option<bool> = "resume",
    } => ();
    /// Starts to listen for a migration.
    "migrate-incoming" MigrateIncoming {
        /// Where.
        uri: Option<String> = "uri",
        /// Where, channel by channel.
        channels: Option<Vec<MigrationChannel>> = "channels",
        /// End the program when it fails; the default is true.
        exit_on_error: Option<bool> = "exit-on-error",
    } => ();
    /// Cancels the migration.
    "migrate_cancel" MigrateCancel () => ();
    /// Goes on after `pre-switchover`.
    "migrate-continue" MigrateContinue {
        /// The state to go on from.
        state: MigrationStatus = "state",
    } => ();
    /// Pauses post-copy.
    "migrate-pause" MigratePause () => (), oob true;
    /// Listens for a paused post-copy to resume.
    "migrate-recover" MigrateRecover {
        /// Where.
        uri: String = "uri",
    } => (), oob true;
    /// The migration's progress.
    "query-migrate" QueryMigrate () => MigrationInfo;
    /// Switches capabilities.
    "migrate-set-capabilities" MigrateSetCapabilities {
        /// Which, and how.
        capabilities: Vec<MigrationCapabilityStatus> = "capabilities",
    } => ();
    /// The capabilities.
    "query-migrate-capabilities" QueryMigrateCapabilities () => Vec<MigrationCapabilityStatus>;
    /// Changes parameters.
    "migrate-set-parameters" MigrateSetParameters (Box<MigrationParameters>) => ();
    /// The parameters.
    "query-migrate-parameters" QueryMigrateParameters () => CurrentMigrationParameters;

    /// The pairs.
    "query-failover" QueryFailover () => Vec<FailoverInfo>;
    /// The last migrations and failovers on this side: what was when.
    "query-failover-report" QueryFailoverReport () => Value;
    /// Moves a pair's traffic to one of its devices.
    "failover-switch" FailoverSwitch {
        /// The standby's id.
        id: String = "id",
        /// Where to.
        path: FailoverPath = "path",
    } => ();

    /// NICs and back ends, for `info network`.
    "x-query-network" QueryNetwork () => Vec<NetworkClientInfo> ["unstable"];
    /// Buses and devices, for `info qtree`.
    "x-query-qtree" QueryQtree () => Vec<QtreeBus> ["unstable"];
    /// What was loaded into guest memory, for `info roms`.
    "x-query-roms" QueryRoms () => HumanReadableText ["unstable"];
}

commands! {
    /// A command that the monitor answers without the machine.
    pub enum SessionCommand, SESSION_COMMANDS;

    /// Ends the negotiation.
    "qmp_capabilities" QmpCapabilities {
        /// What to switch on.
        enable: Option<Vec<QmpCapability>> = "enable",
    } => ();
    /// The program's version.
    "query-version" QueryVersion () => VersionInfo;
    /// The commands there are.
    "query-commands" QueryCommands () => Vec<CommandInfo>;
    /// The events there are.
    "query-events" QueryEvents () => Vec<EventInfo>;
    /// The protocol, described.
    "query-qmp-schema" QueryQmpSchema () => Vec<SchemaInfo>;
    /// Keeps the descriptor that came with the command under a name.
    "getfd" Getfd {
        /// The name.
        fdname: String = "fdname",
    } => ();
    /// Closes a kept descriptor.
    "closefd" Closefd {
        /// Its name.
        fdname: String = "fdname",
    } => ();
    /// Puts the descriptor that came with the command into a set.
    "add-fd" AddFd {
        /// The set; a new one when left out.
        fdset_id: Option<i64> = "fdset-id",
        /// A note.
        opaque: Option<String> = "opaque",
    } => AddfdInfo;
    /// Takes a descriptor, or all, out of a set.
    "remove-fd" RemoveFd {
        /// The set.
        fdset_id: i64 = "fdset-id",
        /// The descriptor.
        fd: Option<i64> = "fd",
    } => ();
    /// The descriptor sets.
    "query-fdsets" QueryFdsets () => Vec<FdsetInfo>;
    /// Executes a line of HMP.
    "human-monitor-command" HumanMonitorCommand {
        /// The line.
        command_line: String = "command-line",
        /// The CPU that it is about.
        cpu_index: Option<i64> = "cpu-index",
    } => String;
}

/// A command of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyCommand {
    /// For the machine.
    Machine(Box<Command>),
    /// For the monitor.
    Session(SessionCommand),
}

impl AnyCommand {
    /// Reads the arguments of the command of that name.
    ///
    /// # Errors
    /// There is no such command (class `CommandNotFound`), or its arguments are wrong.
    pub fn decode(name: &str, arguments: Value) -> Result<Self, QmpError> {
        if SESSION_COMMANDS.iter().any(|command| command.name == name) {
            if let Some(decoded) = SessionCommand::decode(name, arguments) {
                return decoded.map(Self::Session);
            }
        } else if let Some(decoded) = Command::decode(name, arguments) {
            return decoded.map(|command| Self::Machine(Box::new(command)));
        }
        Err(QmpError::command_not_found(format!(
            "The command {name} has not been found"
        )))
    }
}

/// What the tables say about the command of that name.
pub fn describe(name: &str) -> Option<&'static CommandDescription> {
    all().find(|command| command.name == name)
}

/// The declarations of all commands.
pub fn all() -> impl Iterator<Item = &'static CommandDescription> {
    SESSION_COMMANDS.iter().chain(COMMANDS)
}
