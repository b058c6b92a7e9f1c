//! Option strings: what each form means, and that no text whatever makes the parser stumble.
#![allow(clippy::unwrap_used)]

use config::syntax::{nearest, parse_bool, parse_number, parse_signed, parse_size};
use config::{HostPciAddr, Options, SlotAddr, Value, format_mac, parse_mac};
use proptest::prelude::*;

fn pairs(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
    let options = Options::parse(text, implied).unwrap();
    options
        .iter()
        .map(|(key, value)| (key.to_owned(), value.text()))
        .collect()
}

fn expect(text: &str, implied: Option<&str>, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    assert_eq!(pairs(text, implied), expected, "{text}");
}

#[test]
fn forms_of_key_and_value() {
    expect("", Some("driver"), &[]);
    expect(
        "virtio-net-pci",
        Some("driver"),
        &[("driver", "virtio-net-pci")],
    );
    expect(
        "driver=x,id=a",
        Some("driver"),
        &[("driver", "x"), ("id", "a")],
    );
    expect(
        "x,id=a,failover=on",
        Some("driver"),
        &[("driver", "x"), ("id", "a"), ("failover", "on")],
    );
    expect(
        "socket,server,nowait",
        Some("backend"),
        &[("backend", "socket"), ("server", "on"), ("wait", "off")],
    );
    expect(
        "socket,server=on,wait=off",
        Some("backend"),
        &[("backend", "socket"), ("server", "on"), ("wait", "off")],
    );
    // These two are no negations of "delay" and "reboot".
    expect(
        "nodelay,noreboot",
        None,
        &[("nodelay", "on"), ("noreboot", "on")],
    );
    expect("no", None, &[("no", "on")]);
    expect("a=1,", None, &[("a", "1")]);
    expect("a=", None, &[("a", "")]);
    expect("a=b=c", None, &[("a", "b=c")]);
    expect("a=1,b=2,a=3", None, &[("b", "2"), ("a", "3")]);
}

#[test]
fn doubled_commas_are_commas() {
    expect(
        "path=/tmp/a,,b,server",
        None,
        &[("path", "/tmp/a,b"), ("server", "on")],
    );
    expect("/tmp/a,,b", Some("path"), &[("path", "/tmp/a,b")]);
    expect("path=,,", None, &[("path", ",")]);
    expect("path=,,,x=1", None, &[("path", ","), ("x", "1")]);
}

#[test]
fn json_is_flattened() {
    expect(
        r#"{"driver":"vfio-pci","multifunction":true,"port":8,"file":{"driver":"file","list":["a",2]},"gone":null}"#,
        Some("driver"),
        &[
            ("driver", "vfio-pci"),
            ("multifunction", "on"),
            ("port", "8"),
            ("file.driver", "file"),
            ("file.list.0", "a"),
            ("file.list.1", "2"),
        ],
    );
    for bad in ["{", "{\"a\":}", "{\"a\":1}x", "{'a':1}"] {
        let message = Options::parse(bad, None).unwrap_err().to_string();
        assert!(
            message.starts_with("JSON parse error, "),
            "{bad}: {message}"
        );
    }
}

#[test]
fn empty_keys_are_refused() {
    for bad in ["=x", "a=1,=2", ",a=1"] {
        assert_eq!(
            Options::parse(bad, None).unwrap_err().to_string(),
            "Invalid parameter ''",
            "{bad}"
        );
    }
}

#[test]
fn help_is_a_bare_word() {
    assert!(
        Options::parse("virtio-net-pci,help", Some("driver"))
            .unwrap()
            .asks_for_help()
    );
    assert!(
        Options::parse("virtio-net-pci,?", Some("driver"))
            .unwrap()
            .asks_for_help()
    );
    assert!(
        !Options::parse("help", Some("driver"))
            .unwrap()
            .asks_for_help()
    );
}

#[test]
fn scalars() {
    for (text, value) in [
        ("on", Some(true)),
        ("yes", Some(true)),
        ("false", Some(false)),
        ("n", Some(false)),
        ("1", None),
        ("On", None),
    ] {
        assert_eq!(parse_bool(text), value, "{text}");
    }
    for (text, value) in [
        ("0", Some(0)),
        ("0x1f", Some(31)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("", None),
        ("0x", None),
        ("+1", None),
        ("-1", None),
        ("1 ", None),
    ] {
        assert_eq!(parse_number(text), value, "{text}");
    }
    assert_eq!(parse_signed("-9223372036854775808"), Some(i64::MIN));
    assert_eq!(parse_signed("--1"), None);
    for (text, unit, value) in [
        ("256", 1 << 20, Some(256 << 20)),
        ("1G", 1 << 20, Some(1 << 30)),
        ("262144k", 1 << 20, Some(256 << 20)),
        ("1.5G", 1, Some(3 << 29)),
        ("512b", 1 << 20, Some(512)),
        ("0x100000", 1, Some(1 << 20)),
        (".5k", 1, Some(512)),
        ("16E", 1, None),
        ("15E", 1, Some(15 << 60)),
        ("1.5", 1, None),
        ("G", 1, None),
        (".", 1, None),
        ("1.2.3k", 1, None),
        ("1kk", 1, None),
        ("-1", 1, None),
        ("", 1, None),
        ("1ä", 1, None),
        ("ä", 1, None),
    ] {
        assert_eq!(parse_size(text, unit), value, "{text}");
    }
}

#[test]
fn addresses() {
    for (text, shown) in [
        ("1", "01.0"),
        ("0x1.0x3", "01.3"),
        ("1.0", "01.0"),
        ("1f.7", "1f.7"),
        ("0x1F", "1f.0"),
    ] {
        assert_eq!(
            text.parse::<SlotAddr>().map(|a| a.to_string()),
            Ok(shown.to_owned()),
            "{text}"
        );
    }
    for bad in ["", "20", "1.8", "0x", "1.", ".1", "1.0.0", "-1", "g"] {
        assert!(bad.parse::<SlotAddr>().is_err(), "{bad}");
    }
    for (text, shown) in [
        ("5e:00.2", "0000:5e:00.2"),
        ("0001:06:10.7", "0001:06:10.7"),
        ("10000:e1:00.0", "10000:e1:00.0"),
    ] {
        assert_eq!(
            text.parse::<HostPciAddr>().map(|a| a.to_string()),
            Ok(shown.to_owned()),
            "{text}"
        );
    }
    for bad in [
        "",
        "5e:00",
        "00.2",
        "100:00.0",
        "0:20.0",
        "5e:00.8",
        "1:2:3:4.5",
        "100000000:0:0.0",
    ] {
        assert!(bad.parse::<HostPciAddr>().is_err(), "{bad}");
    }
    assert_eq!(
        parse_mac("52:54:00:6F:55:cc").map(format_mac).as_deref(),
        Some("52:54:00:6f:55:cc")
    );
    assert_eq!(
        parse_mac("52-54-00-6f-55-cc").map(format_mac).as_deref(),
        Some("52:54:00:6f:55:cc")
    );
    for bad in [
        "",
        "52:54:00:6f:55",
        "52:54:00:6f:55:cc:00",
        "52:54:00:6f:55:+c",
        "52:54:00:6f:55:ccc",
        "zz:54:00:6f:55:cc",
    ] {
        assert_eq!(parse_mac(bad), None, "{bad}");
    }
}

#[test]
fn suggestions_are_near() {
    let known = ["failover", "failover_pair_id", "netdev", "mac"];
    assert_eq!(nearest("failovr", known), Some("failover"));
    assert_eq!(nearest("failover-pair-id", known), Some("failover_pair_id"));
    assert_eq!(nearest("nedtev", known), Some("netdev"));
    assert_eq!(nearest("bar", known), None);
    assert_eq!(nearest("", known), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), implied in any::<bool>()) {
        let _ = Options::parse(&text, implied.then_some("driver"));
        let _ = (parse_size(&text, 1 << 20), parse_signed(&text), parse_mac(&text));
        let _ = (text.parse::<SlotAddr>(), text.parse::<HostPciAddr>());
    }

    #[test]
    fn text_of_the_syntax_is_read_or_refused(text in "[a-c=,{}\":no?.0-9x]{0,60}") {
        let _ = Options::parse(&text, Some("driver"));
    }

    #[test]
    fn printing_and_reading_agree(
        entries in proptest::collection::vec(("[a-z][a-z0-9_.-]{0,8}", any::<String>()), 0..8),
    ) {
        let mut options = Options::new();
        for (key, value) in &entries {
            options.set(key, Value::Text(value.clone()));
        }
        let printed = options.to_string();
        prop_assert_eq!(Options::parse(&printed, None).unwrap(), options.clone());
        prop_assert_eq!(Options::parse(&printed, Some("driver")).unwrap(), options);
    }

    #[test]
    fn addresses_print_as_they_are_read(domain in 0u32..=u32::MAX, bus: u8, device in 0u8..32, function in 0u8..8) {
        let host = HostPciAddr { domain, bus, device, function };
        prop_assert_eq!(host.to_string().parse(), Ok(host));
        let slot = SlotAddr { slot: device, function };
        prop_assert_eq!(slot.to_string().parse(), Ok(slot));
    }
}
