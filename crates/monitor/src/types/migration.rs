//! Migration: what it is told and what it tells.

use crate::error::QmpError;
use crate::qapi::{Members, Path, QapiType, StrOrNull, describe_member, qapi_enum, qapi_struct};
use crate::schema::Schema;
use crate::types::SocketAddress;
use serde_json::{Map, Value};

qapi_enum! {
    /// The states of a migration.
    pub enum MigrationStatus {
        /// None was asked for.
        None = "none",
        /// The transport is being set up.
        Setup = "setup",
        /// It is being cancelled.
        Cancelling = "cancelling",
        /// It was cancelled.
        Cancelled = "cancelled",
        /// Memory is being sent.
        Active = "active",
        /// Post-copy runs.
        PostcopyActive = "postcopy-active",
        /// Post-copy stands still after a network failure.
        PostcopyPaused = "postcopy-paused",
        /// Post-copy sets its recovery up.
        PostcopyRecoverSetup = "postcopy-recover-setup",
        /// Post-copy recovers.
        PostcopyRecover = "postcopy-recover",
        /// It ended well.
        Completed = "completed",
        /// It failed.
        Failed = "failed",
        /// A checkpoint is being taken.
        Colo = "colo",
        /// Stopped before the switch-over, waiting for `migrate-continue`.
        PreSwitchover = "pre-switchover",
        /// The devices' state is being sent.
        Device = "device",
        /// The guest is asked to let go of its primaries.
        WaitUnplug = "wait-unplug",
    }

    /// What migrations can do, each switched on or off.
    pub enum MigrationCapability {
        /// Deltas of cached pages.
        Xbzrle = "xbzrle",
        /// RDMA with all memory pinned.
        RdmaPinAll = "rdma-pin-all",
        /// Slow the guest down when memory does not converge.
        AutoConverge = "auto-converge",
        /// Deprecated, has no effect.
        ZeroBlocks = "zero-blocks",
        /// Emit `MIGRATION` and `MIGRATION_PASS`.
        Events = "events",
        /// Allow post-copy.
        PostcopyRam = "postcopy-ram",
        /// Checkpointing.
        XColo = "x-colo",
        /// Free memory on the source as it is sent.
        ReleaseRam = "release-ram",
        /// A way back from the target to the source.
        ReturnPath = "return-path",
        /// Wait for `migrate-continue` before the switch-over.
        PauseBeforeSwitchover = "pause-before-switchover",
        /// Several connections.
        Multifd = "multifd",
        /// Dirty bitmaps of block devices.
        DirtyBitmaps = "dirty-bitmaps",
        /// Measure post-copy's blocking.
        PostcopyBlocktime = "postcopy-blocktime",
        /// Activate block devices late.
        LateBlockActivate = "late-block-activate",
        /// Leave shared memory out.
        XIgnoreShared = "x-ignore-shared",
        /// Refuse a target of another UUID.
        ValidateUuid = "validate-uuid",
        /// A snapshot while the guest runs.
        BackgroundSnapshot = "background-snapshot",
        /// Send without copying.
        ZeroCopySend = "zero-copy-send",
        /// A channel of its own for post-copy's urgent pages.
        PostcopyPreempt = "postcopy-preempt",
        /// The target agrees to the switch-over.
        SwitchoverAck = "switchover-ack",
        /// Slow down only the vCPUs that write.
        DirtyLimit = "dirty-limit",
        /// Memory at fixed offsets of a file.
        MappedRam = "mapped-ram",
    }

    /// How migrations look for zero pages.
    pub enum ZeroPageDetection {
        /// Not at all.
        None = "none",
        /// In the migration's thread.
        Legacy = "legacy",
        /// In the threads of the connections.
        Multifd = "multifd",
    }

    /// How the connections' threads compress.
    pub enum MultiFdCompression {
        /// Not at all.
        None = "none",
        /// By zlib.
        Zlib = "zlib",
        /// By zstd.
        Zstd = "zstd",
    }

    /// What a migration is for.
    pub enum MigMode {
        /// Moving a running VM.
        Normal = "normal",
        /// Replacing the program under the VM by a reboot.
        CprReboot = "cpr-reboot",
        /// Replacing the program under the VM by handing its resources over.
        CprTransfer = "cpr-transfer",
    }

    /// What a channel is for.
    pub enum MigrationChannelType {
        /// The stream.
        Main = "main",
        /// Resources handed over.
        Cpr = "cpr",
    }

    /// What to do when a guest has not let go of its primary in time.
    pub enum FailoverUnplugPolicy {
        /// The migration fails; the guest keeps its primaries, and gets those back that it has let go.
        Abort = "abort",
        /// The migration is cancelled, with the same end for the primaries.
        Cancel = "cancel",
    }

    /// What to do with a guest that is paused with its primary in.
    pub enum FailoverWhenPaused {
        /// The migration ends at its beginning, as `failover-unplug-policy` says.
        Refuse = "refuse",
        /// It waits until the guest is resumed; the time for the unplug is counted while it runs.
        Wait = "wait",
    }
}

qapi_struct! {
    /// One capability and whether it is on.
    pub struct MigrationCapabilityStatus {
        /// The capability.
        capability: MigrationCapability = "capability",
        /// It is on.
        state: bool = "state",
    }

    /// What a block node and its bitmaps are called in the stream.
    pub struct BitmapMigrationNodeAlias {
        /// The node.
        node_name: String = "node-name",
        /// Its name in the stream.
        alias: String = "alias",
        /// Its bitmaps.
        bitmaps: Vec<BitmapMigrationBitmapAlias> = "bitmaps",
    }

    /// What a bitmap is called in the stream.
    pub struct BitmapMigrationBitmapAlias {
        /// The bitmap.
        name: String = "name",
        /// Its name in the stream.
        alias: String = "alias",
        /// What to change of it on the way.
        transform: Option<BitmapMigrationBitmapAliasTransform> = "transform",
    }

    /// What changes of a bitmap on the way.
    pub struct BitmapMigrationBitmapAliasTransform {
        /// It is kept on disk, or no longer.
        persistent: Option<bool> = "persistent",
    }

    /// The parameters of migrations; in `migrate-set-parameters` only those that change.
    #[derive(Default)]
    pub struct MigrationParameters {
        /// Delay before the first announcement, in ms.
        announce_initial_ms: Option<u64> = "announce-initial",
        /// The longest delay between announcements, in ms.
        announce_max_ms: Option<u64> = "announce-max",
        /// How many announcements.
        announce_rounds: Option<u64> = "announce-rounds",
        /// By how much the delay between announcements grows, in ms.
        announce_step_ms: Option<u64> = "announce-step",
        /// Dirty bytes over transferred bytes, in per cent, above which the guest is slowed down.
        throttle_trigger_threshold: Option<u8> = "throttle-trigger-threshold",
        /// The first slow-down, in per cent.
        cpu_throttle_initial: Option<u8> = "cpu-throttle-initial",
        /// By how much it grows, in per cent.
        cpu_throttle_increment: Option<u8> = "cpu-throttle-increment",
        /// The last steps are small.
        cpu_throttle_tailslow: Option<bool> = "cpu-throttle-tailslow",
        /// The id of the TLS credentials.
        tls_creds: Option<StrOrNull> = "tls-creds",
        /// The name the target's certificate must bear.
        tls_hostname: Option<StrOrNull> = "tls-hostname",
        /// The id of the object that admits certificates.
        tls_authz: Option<StrOrNull> = "tls-authz",
        /// The limit of the rate, in bytes a second; 0 is none.
        max_bandwidth_bytes: Option<u64> = "max-bandwidth",
        /// The rate assumed for the switch-over, in bytes a second; 0 is measured.
        avail_switchover_bandwidth_bytes: Option<u64> = "avail-switchover-bandwidth",
        /// The downtime allowed, in ms.
        downtime_limit_ms: Option<u64> = "downtime-limit",
        /// Time between checkpoints, in ms.
        x_checkpoint_delay_ms: Option<u32> = "x-checkpoint-delay",
        /// How many connections.
        multifd_channels: Option<u8> = "multifd-channels",
        /// How they compress.
        multifd_compression: Option<MultiFdCompression> = "multifd-compression",
        /// How hard zlib tries.
        multifd_zlib_level: Option<u8> = "multifd-zlib-level",
        /// How hard zstd tries.
        multifd_zstd_level: Option<u8> = "multifd-zstd-level",
        /// How hard QAT's zip tries.
        multifd_qatzip_level: Option<u8> = "multifd-qatzip-level",
        /// What dirty bitmaps are called in the stream.
        block_bitmap_mapping: Option<Vec<BitmapMigrationNodeAlias>> = "block-bitmap-mapping",
        /// Size of the delta cache, in bytes.
        xbzrle_cache_size_bytes: Option<u64> = "xbzrle-cache-size",
        /// The limit of post-copy's background rate, in bytes a second.
        max_postcopy_bandwidth_bytes: Option<u64> = "max-postcopy-bandwidth",
        /// The greatest slow-down, in per cent.
        max_cpu_throttle: Option<u8> = "max-cpu-throttle",
        /// Period of the dirty-rate limit, in ms.
        x_vcpu_dirty_limit_period_ms: Option<u64> = "x-vcpu-dirty-limit-period",
        /// Dirty-rate limit, in MB a second.
        vcpu_dirty_limit_mb: Option<u64> = "vcpu-dirty-limit",
        /// What the migration is for.
        mode: Option<MigMode> = "mode",
        /// How zero pages are found.
        zero_page_detection: Option<ZeroPageDetection> = "zero-page-detection",
        /// Bypass the page cache for `file:`.
        direct_io: Option<bool> = "direct-io",
        /// How long the guest has to let go of its primaries, in ms.
        failover_unplug_timeout_ms: Option<u64> = "failover-unplug-timeout",
        /// What to do when it has not.
        failover_unplug_policy: Option<FailoverUnplugPolicy> = "failover-unplug-policy",
        /// What to do with a guest that is paused with its primary in.
        failover_when_paused: Option<FailoverWhenPaused> = "failover-when-paused",
        /// How long the target has to take the guest over once all is sent, in ms.
        handover_timeout_ms: Option<u64> = "handover-timeout",
    }

    /// What became of the guest's memory.
    #[derive(Default)]
    pub struct MigrationRamStats {
        /// Bytes sent.
        transferred_bytes: i64 = "transferred",
        /// Bytes still to send.
        remaining_bytes: i64 = "remaining",
        /// Size of the memory, in bytes.
        total_bytes: i64 = "total",
        /// Pages that were zero.
        duplicate_pages: i64 = "duplicate",
        /// Pages that were not.
        normal_pages: i64 = "normal",
        /// The same in bytes.
        normal_bytes: i64 = "normal-bytes",
        /// Pages a second that the guest writes.
        dirty_pages_rate: i64 = "dirty-pages-rate",
        /// The rate, in megabits a second.
        mbps: f64 = "mbps",
        /// How often the dirty bitmap was read.
        dirty_sync_count: i64 = "dirty-sync-count",
        /// How often a send without a copy became one with.
        dirty_sync_missed_zero_copy: u64 = "dirty-sync-missed-zero-copy",
        /// Pages that the target asked for.
        postcopy_requests: i64 = "postcopy-requests",
        /// Bytes of a page.
        page_size_bytes: i64 = "page-size",
        /// Bytes sent by the additional connections.
        multifd_bytes: u64 = "multifd-bytes",
        /// Pages a second that are sent.
        pages_per_second: u64 = "pages-per-second",
        /// Bytes sent before the stop.
        precopy_bytes: u64 = "precopy-bytes",
        /// Bytes sent after the stop.
        downtime_bytes: u64 = "downtime-bytes",
        /// Bytes sent after the switch-over.
        postcopy_bytes: u64 = "postcopy-bytes",
    }

    /// `query-migrate`. `MigrationInfo::default()` is the answer before any migration: `{}`.
    #[derive(Default)]
    pub struct MigrationInfo {
        /// The state.
        status: Option<MigrationStatus> = "status",
        /// Memory.
        ram: Option<MigrationRamStats> = "ram",
        /// Since the start, in ms.
        total_time_ms: Option<i64> = "total-time",
        /// How long the guest will stand still, in ms.
        expected_downtime_ms: Option<i64> = "expected-downtime",
        /// How long the guest stood still, in ms.
        downtime_ms: Option<i64> = "downtime",
        /// How long setting up took, in ms.
        setup_time_ms: Option<i64> = "setup-time",
        /// Why it failed.
        error_desc: Option<String> = "error-desc",
        /// Where a target listens.
        socket_address: Option<Vec<SocketAddress>> = "socket-address",
        /// Why it cannot start.
        blocked_reasons: Option<Vec<String>> = "blocked-reasons",
        /// How long the guest took to let go of its primaries, in ms.
        failover_unplug_time_ms: Option<i64> = "failover-unplug-time",
        /// How the wait for the guest's eject ended, when not by one; a word for programs.
        failover_reason: Option<String> = "failover-reason",
    }

    /// Where one channel leads.
    pub struct MigrationChannel {
        /// What it is for.
        channel_type: MigrationChannelType = "channel-type",
        /// Where it leads.
        addr: MigrationAddress = "addr",
    }
}

/// `query-migrate-parameters`: all of them, and names that are told, never taken back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CurrentMigrationParameters(pub MigrationParameters);

impl QapiType for CurrentMigrationParameters {
    fn describe(schema: &mut Schema) -> String {
        let text = String::describe(schema);
        let nullable = StrOrNull::describe(schema);
        schema.object("CurrentMigrationParameters", |schema| {
            let mut members = MigrationParameters::schema_members(schema);
            for member in &mut members {
                if member.type_name == nullable {
                    member.type_name.clone_from(&text);
                }
            }
            members
        })
    }
    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        MigrationParameters::decode(value, at).map(Self)
    }
    fn encode(&self) -> Value {
        self.0.encode()
    }
}

/// An address of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationAddress {
    /// A socket, or a descriptor.
    Socket(SocketAddress),
    /// A command's standard input or output.
    Exec {
        /// Program and arguments.
        args: Vec<String>,
    },
    /// A file.
    File {
        /// Its path.
        filename: String,
        /// Where the stream begins in it, in bytes.
        offset_bytes: u64,
    },
}

impl QapiType for MigrationAddress {
    fn describe(schema: &mut Schema) -> String {
        schema.union(
            "MigrationAddress",
            "transport",
            |schema| {
                let type_name =
                    schema.enumeration("MigrationAddressType", &["socket", "exec", "file"]);
                vec![crate::schema::SchemaMember {
                    name: "transport",
                    type_name,
                    optional: false,
                }]
            },
            |schema| {
                let socket = SocketAddress::describe(schema);
                let exec = schema.object("MigrationExecCommand", |schema| {
                    vec![describe_member::<Vec<String>>(schema, "args")]
                });
                let file = schema.object("FileMigrationArgs", |schema| {
                    vec![
                        describe_member::<String>(schema, "filename"),
                        describe_member::<u64>(schema, "offset"),
                    ]
                });
                vec![("socket", socket), ("exec", exec), ("file", file)]
            },
        )
    }

    fn decode(value: Value, at: &Path<'_>) -> Result<Self, QmpError> {
        let mut members = Members::open(value, at)?;
        let transport: String = members.take("transport")?;
        let address = match transport.as_str() {
            "socket" => Self::Socket(SocketAddress::take(&mut members)?),
            "exec" => Self::Exec {
                args: members.take("args")?,
            },
            "file" => Self::File {
                filename: members.take("filename")?,
                offset_bytes: members.take("offset")?,
            },
            _ => return Err(QmpError::not_accepted("transport", &transport)),
        };
        members.finish()?;
        Ok(address)
    }

    fn encode(&self) -> Value {
        let (transport, mut object) = match self {
            Self::Socket(socket) => ("socket", socket.members()),
            Self::Exec { args } => ("exec", Map::from_iter([("args".to_owned(), args.encode())])),
            Self::File {
                filename,
                offset_bytes,
            } => {
                let filename = ("filename".to_owned(), Value::from(filename.as_str()));
                let offset = ("offset".to_owned(), Value::from(*offset_bytes));
                ("file", Map::from_iter([filename, offset]))
            }
        };
        object.insert("transport".to_owned(), transport.into());
        Value::Object(object)
    }
}
