//! What commands return, typed: the table of commands says which of these belongs to which.

use crate::qapi::QapiType;
use crate::types::*;
use serde_json::Value;

/// A type that some command returns.
pub trait ResponseOf: QapiType + Into<Response> + TryFrom<Response> {
    /// The response is of this type.
    fn accepts(response: &Response) -> bool;
}

macro_rules! responses {
    ($( $(#[$meta:meta])* $variant:ident : $ty:ty, )*) => {
        /// What a command returned. Each of the types converts into it, so `reply.ok(StatusInfo::new(…))` reads well.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Response {
            $( $(#[$meta])* $variant($ty), )*
        }

        impl Response {
            /// The value as JSON.
            pub fn encode(&self) -> Value {
                match self { $( Self::$variant(value) => value.encode(), )* }
            }
        }

        $(
            impl From<$ty> for Response {
                fn from(value: $ty) -> Self {
                    Self::$variant(value)
                }
            }

            impl TryFrom<Response> for $ty {
                type Error = Response;
                fn try_from(response: Response) -> Result<Self, Response> {
                    match response {
                        Response::$variant(value) => Ok(value),
                        other => Err(other),
                    }
                }
            }

            impl ResponseOf for $ty {
                fn accepts(response: &Response) -> bool {
                    matches!(response, Response::$variant(_))
                }
            }
        )*
    };
}

responses! {
    /// Nothing: `{}`.
    Empty: (),
    /// A value of any type.
    Any: Value,
    /// The protocol, described.
    Schema: Vec<SchemaInfo>,
    /// A text.
    Text: String,
    /// The version.
    Version: VersionInfo,
    /// The run state.
    Status: StatusInfo,
    /// The name.
    Name: NameInfo,
    /// The UUID.
    Uuid: UuidInfo,
    /// KVM.
    Kvm: KvmInfo,
    /// The instruction set.
    Target: TargetInfo,
    /// Commands.
    Commands: Vec<CommandInfo>,
    /// Events.
    Events: Vec<EventInfo>,
    /// Machines.
    Machines: Vec<MachineInfo>,
    /// CPUs.
    Cpus: Vec<CpuInfoFast>,
    /// Slots for CPUs.
    HotpluggableCpus: Vec<HotpluggableCpu>,
    /// CPU models.
    CpuDefinitions: Vec<CpuDefinitionInfo>,
    /// A CPU model, expanded.
    CpuModelExpansion: CpuModelExpansionInfo,
    /// Sizes of memory.
    Memory: MemoryInfo,
    /// Character devices.
    Chardevs: Vec<ChardevInfo>,
    /// Block devices.
    Blocks: Vec<BlockInfo>,
    /// Block nodes.
    BlockNodes: Vec<BlockNodeInfo>,
    /// Jobs.
    Jobs: Vec<JobInfo>,
    /// I/O threads.
    IoThreads: Vec<IoThreadInfo>,
    /// Options of the command line.
    CommandLineOptions: Vec<CommandLineOptionInfo>,
    /// PCI functions.
    Pci: Vec<PciInfo>,
    /// Receive filters.
    RxFilters: Vec<RxFilterInfo>,
    /// Properties.
    Properties: Vec<ObjectPropertyInfo>,
    /// Types of objects.
    ObjectTypes: Vec<ObjectTypeInfo>,
    /// A migration.
    Migration: MigrationInfo,
    /// Migration capabilities.
    MigrationCapabilities: Vec<MigrationCapabilityStatus>,
    /// Migration parameters.
    MigrationParameters: CurrentMigrationParameters,
    /// Pairs.
    Failover: Vec<FailoverInfo>,
    /// NICs and back ends.
    Network: Vec<NetworkClientInfo>,
    /// Buses and devices.
    Qtree: Vec<QtreeBus>,
    /// A text for a person.
    HumanReadable: HumanReadableText,
    /// Descriptor sets.
    Fdsets: Vec<FdsetInfo>,
    /// A descriptor put into a set.
    Addfd: AddfdInfo,
}
