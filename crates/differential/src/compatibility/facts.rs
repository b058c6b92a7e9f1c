//! What a program says of itself, by all the ways in which a management layer asks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine::board;
use crate::program::Program;
use crate::stage::Stage;
use crate::vmm::Vmm;

/// The device types whose properties are compared.
pub(super) const DEVICES: &[&str] = &[
    "virtio-net-pci",
    "vfio-pci",
    "pcie-root-port",
    "virtio-blk-pci",
    "virtio-rng-pci",
    "isa-serial",
];

/// Objects by a name that each of them has.
pub(super) type Named = BTreeMap<String, Value>;

/// The answers of one program.
pub(super) struct Facts {
    /// `query-qmp-schema`.
    pub(super) schema: Named,
    /// The options that its help text lists.
    pub(super) options: BTreeSet<String>,
    /// `device-list-properties`: for each device the type of each property.
    pub(super) properties: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// `query-machines`.
    pub(super) machines: Named,
    /// `query-cpu-definitions`.
    pub(super) cpus: Named,
    /// `query-command-line-options`, for each option the type of each parameter.
    pub(super) parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// `qom-list-types`, abstract ones among them.
    pub(super) types: Named,
}

impl Facts {
    /// Asks `program`.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn of(program: &Program) -> Result<Self> {
        let mut stage = Stage::new(program)?;
        let mut vmm = stage.start("vm", &board(1))?;
        let schema = named(&mut vmm, "query-qmp-schema", Value::Null, "name")?;
        let machines = named(&mut vmm, "query-machines", Value::Null, "name")?;
        let cpus = named(&mut vmm, "query-cpu-definitions", Value::Null, "name")?;
        let types = named(
            &mut vmm,
            "qom-list-types",
            json!({"abstract": true}),
            "name",
        )?;
        let lists = named(
            &mut vmm,
            "query-command-line-options",
            Value::Null,
            "option",
        )?;
        let parameters = lists
            .iter()
            .map(|(option, entry)| (option.clone(), kinds(entry.get("parameters"))))
            .collect();
        let mut properties = BTreeMap::new();
        for device in DEVICES {
            let list = vmm.must("device-list-properties", json!({"typename": device}))?;
            properties.insert(*device, kinds(Some(&list)));
        }
        vmm.finish()?;
        let help = Command::new(&program.path).arg("-help").output()?;
        Ok(Self {
            schema,
            options: option_names(&String::from_utf8_lossy(&help.stdout)),
            properties,
            machines,
            cpus,
            parameters,
            types,
        })
    }

    /// Names of the commands or the events.
    pub(super) fn of_kind(&self, meta: &str) -> BTreeSet<&str> {
        let wanted = |entry: &Value| entry.get("meta-type").and_then(Value::as_str) == Some(meta);
        let found = self.schema.iter().filter(|(_, entry)| wanted(entry));
        found.map(|(name, _)| name.as_str()).collect()
    }
}

/// A list of objects that `command` returns, by their member `key`.
fn named(vmm: &mut Vmm, command: &str, arguments: Value, key: &str) -> Result<Named> {
    let list = vmm.must(command, arguments)?;
    let list = list.as_array().with_context(|| command.to_owned())?;
    let name = |entry: &Value| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let entries = list.iter();
    Ok(entries
        .filter_map(|each| Some((name(each)?, each.clone())))
        .collect())
}

/// Of a list of objects with `name` and `type` the one by the other.
fn kinds(list: Option<&Value>) -> BTreeMap<String, String> {
    let text = |each: &Value, key: &str| each.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|each| Some((text(each, "name")?, text(each, "type")?)))
        .collect()
}

/// The options that a help text begins lines with: `-h or -help`, `-fda/-fdb file`, `-machine …`.
fn option_names(help: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in help.lines().filter(|line| line.starts_with('-')) {
        let mut words = line.split([' ', '\t']);
        names.extend(
            words
                .next()
                .into_iter()
                .flat_map(|word| word.split('/'))
                .map(str::to_owned),
        );
        while words.next() == Some("or") {
            names.extend(words.next().map(str::to_owned));
        }
    }
    names.retain(|name| name.starts_with('-'));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_begin_a_line_of_the_help() {
        let help = "usage\n-h or -help     text\n-fda/-fdb file  text\n                -not this\n-M x text";
        let names: Vec<String> = option_names(help).into_iter().collect();
        assert_eq!(names, ["-M", "-fda", "-fdb", "-h", "-help"]);
    }
}
