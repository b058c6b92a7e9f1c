//! vCPUs, their slots and their models.

use super::cpu_features::{self, Features};
use config::vm::{CPU_MODELS, MachineKind, SmpConfig};
use machine::inspect::Inspect;
use monitor::QmpError;
use monitor::types::{
    CpuDefinitionInfo, CpuInfoFast, CpuInstanceProperties, CpuModelExpansionInfo,
    CpuModelExpansionType, CpuModelInfo, HotpluggableCpu, SysEmuTarget,
};
use serde_json::{Map, Value};

/// The object type of a model's vCPUs.
pub(super) fn type_of(model: &str) -> String {
    format!("{model}-x86_64-cpu")
}

/// The path of a vCPU in the tree of objects.
pub(super) fn path(index: usize) -> String {
    format!("/machine/unattached/device[{index}]")
}

/// Where a vCPU sits.
pub(super) fn place(smp: &SmpConfig, index: usize) -> CpuInstanceProperties {
    let index = u32::try_from(index).unwrap_or(0);
    let (threads, cores, dies) = (smp.threads.max(1), smp.cores.max(1), smp.dies.max(1));
    CpuInstanceProperties {
        node_id: None,
        socket_id: Some((index / threads / cores / dies).into()),
        die_id: (dies > 1).then(|| (index / threads / cores % dies).into()),
        core_id: Some((index / threads % cores).into()),
        thread_id: Some((index % threads).into()),
    }
}

/// `query-cpus-fast`.
pub(super) fn cpus(machine: &dyn Inspect) -> Vec<CpuInfoFast> {
    let smp = machine.config().smp;
    let info = |(index, thread): (usize, i32)| CpuInfoFast {
        cpu_index: i64::try_from(index).unwrap_or(-1),
        qom_path: path(index),
        thread_id: thread.into(),
        props: Some(place(&smp, index)),
        target: SysEmuTarget::X86_64,
    };
    let threads = machine.cpu_threads().into_iter();
    threads.enumerate().map(info).collect()
}

/// `query-hotpluggable-cpus`: the last slot first, as QEMU has it. Every slot is taken.
///
/// # Errors
/// There is no board to have slots.
pub(super) fn slots(machine: &dyn Inspect) -> Result<Vec<HotpluggableCpu>, QmpError> {
    let config = machine.config();
    if config.machine.kind == MachineKind::None {
        return Err(QmpError::generic(
            "machine does not support hot-plugging CPUs",
        ));
    }
    let slot = |index| HotpluggableCpu {
        kind: type_of(&config.cpu.model),
        vcpus_count: 1,
        props: place(&config.smp, index),
        qom_path: Some(path(index)),
    };
    let indices = 0..machine.cpu_threads().len();
    Ok(indices.rev().map(slot).collect())
}

/// `query-cpu-definitions`.
pub(super) fn definitions(machine: &dyn Inspect) -> Vec<CpuDefinitionInfo> {
    let missing: &[&str] = if machine.kvm_enabled() { &[] } else { &["kvm"] };
    let definition = |(name, _): &(&str, &str)| CpuDefinitionInfo {
        name: (*name).to_owned(),
        migration_safe: Some(false),
        is_static: false,
        unavailable_features: Some(missing.iter().map(|f| (*f).to_owned()).collect()),
        typename: type_of(name),
        alias_of: None,
        deprecated: false,
    };
    CPU_MODELS.iter().map(definition).collect()
}

/// `query-cpu-model-expansion`: what the model is on this host. Without KVM it is the processor itself that is asked.
pub(super) fn expansion(
    machine: &dyn Inspect,
    kind: CpuModelExpansionType,
    model: &CpuModelInfo,
) -> Result<CpuModelExpansionInfo, QmpError> {
    if !CPU_MODELS.iter().any(|(name, _)| *name == model.name) {
        return Err(QmpError::generic(format!(
            "CPU model '{}' not found",
            model.name
        )));
    }
    let features = match machine.cpu_model() {
        Ok(model) => Features::read(&|function, index| model.leaf(function, index)),
        Err(reason) => {
            tracing::debug!(
                reason,
                "KVM cannot be asked what a processor of a guest can do"
            );
            Features::read(&cpu_features::of_this_processor)
        }
    };
    let mut props = features.properties();
    if let Some(given) = &model.props {
        let Value::Object(given) = given else {
            return Err(QmpError::invalid_type("model.props", "object"));
        };
        apply(&mut props, given, &model.name)?;
    }
    let name = match kind {
        CpuModelExpansionType::Static => "base".to_owned(),
        CpuModelExpansionType::Full => model.name.clone(),
    };
    Ok(CpuModelExpansionInfo {
        model: CpuModelInfo {
            name,
            props: Some(Value::Object(props)),
        },
    })
}

/// Switches off what was asked to be off; what this host has not cannot be switched on.
fn apply(
    props: &mut Map<String, Value>,
    given: &Map<String, Value>,
    model: &str,
) -> Result<(), QmpError> {
    for (name, value) in given {
        match (props.get_mut(name), value) {
            (Some(known @ Value::Bool(_)), Value::Bool(on)) => {
                if !on {
                    *known = Value::Bool(false);
                }
            }
            (Some(Value::Bool(_)), _) => return Err(QmpError::invalid_type(name, "boolean")),
            (Some(_), _) => {}
            (None, _) => {
                let kind = type_of(model);
                return Err(QmpError::generic(format!(
                    "Property '{kind}.{name}' not found"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_before_cores_dies_and_sockets() {
        let smp = SmpConfig {
            cpus: 16,
            max_cpus: 16,
            sockets: 2,
            dies: 2,
            cores: 2,
            threads: 2,
        };
        let ids = |index| {
            let p = place(&smp, index);
            [p.socket_id, p.die_id, p.core_id, p.thread_id].map(Option::unwrap_or_default)
        };
        assert_eq!(ids(0), [0, 0, 0, 0]);
        assert_eq!(ids(3), [0, 0, 1, 1]);
        assert_eq!(ids(4), [0, 1, 0, 0]);
        assert_eq!(ids(15), [1, 1, 1, 1]);
        assert_eq!(place(&SmpConfig::default(), 0).die_id, None);
    }
}
