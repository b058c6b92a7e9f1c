//! The machines that scenarios use, as command lines.

use serde_json::{Value, json};

/// Splits words at blanks.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// A q35 with `ports` root ports `root0`…
pub fn board(ports: usize) -> Vec<String> {
    let mut line = words("-M q35 -m 64 -nodefaults -display none");
    for port in 0..ports {
        line.push("-device".into());
        line.push(format!(
            "pcie-root-port,id=root{port},chassis={chassis},slot={chassis},addr={chassis:#x}",
            chassis = port + 1
        ));
    }
    line
}

/// The address that a pair's two devices share.
pub fn mac(pair: usize) -> String {
    format!("52:54:00:00:00:{:02x}", pair + 1)
}

/// Pair number `pair` has its standby at port `2 * pair`.
pub fn standby(pair: usize) -> Vec<String> {
    vec![
        "-device".into(),
        format!(
            "virtio-net-pci,id=standby{pair},bus=root{},mac={},romfile=,failover=on",
            2 * pair,
            mac(pair)
        ),
    ]
}

/// … and its primary at the port after it.
pub fn primary(pair: usize) -> Vec<String> {
    vec![
        "-device".into(),
        format!(
            "virtio-net-pci,id=primary{pair},bus=root{},mac={},romfile=,failover_pair_id=standby{pair}",
            2 * pair + 1,
            mac(pair)
        ),
    ]
}

/// A board with this many pairs.
pub fn pairs(count: usize) -> Vec<String> {
    let mut line = board(2 * count);
    for pair in 0..count {
        line.extend(standby(pair));
        line.extend(primary(pair));
    }
    line
}

/// `device_add`'s arguments for a standby.
pub fn add_standby(pair: usize) -> Value {
    json!({"driver": "virtio-net-pci", "id": format!("standby{pair}"), "bus": format!("root{}", 2 * pair),
           "mac": mac(pair), "romfile": "", "failover": true})
}

/// `device_add`'s arguments for a primary.
pub fn add_primary(pair: usize) -> Value {
    json!({"driver": "virtio-net-pci", "id": format!("primary{pair}"), "bus": format!("root{}", 2 * pair + 1),
           "mac": mac(pair), "romfile": "", "failover_pair_id": format!("standby{pair}")})
}

/// A NIC in the standby's place that does not offer STANDBY.
pub fn plain_nic(pair: usize) -> Vec<String> {
    vec![
        "-device".into(),
        format!(
            "virtio-net-pci,id=standby{pair},bus=root{},mac={},romfile=",
            2 * pair,
            mac(pair)
        ),
    ]
}

/// Arguments with `more` in place of, or beside, what they have; null takes one away.
pub fn with(mut arguments: Value, more: Value) -> Value {
    if let (Some(map), Some(more)) = (arguments.as_object_mut(), more.as_object()) {
        for (name, value) in more {
            if value.is_null() {
                map.remove(name);
            } else {
                map.insert(name.clone(), value.clone());
            }
        }
    }
    arguments
}
