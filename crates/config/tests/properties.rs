//! Option strings and JSON, whatever they say: both mean the same, what is printed is read again, and what is refused is named.
#![allow(clippy::unwrap_used)]

use config::property::{DeviceType, Property, PropertyKind};
use config::vm::{DeviceConfig, NetdevConfig};
use config::{Options, Source, device_types::DEVICE_TYPES};
use proptest::prelude::*;
use serde_json::{Map, json};

fn device(text: &str) -> Result<DeviceConfig, String> {
    let options = Options::parse(text, Some("driver")).map_err(|e| e.to_string())?;
    let read = DeviceConfig::from_options(options, Source::CommandLine);
    let read = read.map_err(|e| e.to_string());
    // The text it was made of stays in it, for messages.
    read.map(|config| DeviceConfig {
        text: String::new(),
        ..config
    })
}

/// A type of device and one of its properties.
fn property() -> impl Strategy<Value = (&'static DeviceType, &'static Property)> {
    let all: Vec<_> = DEVICE_TYPES
        .iter()
        .flat_map(|kind| kind.properties().map(move |property| (kind, property)))
        .collect();
    proptest::sample::select(all)
}

/// A value that a property of a kind may have, in both syntaxes.
fn value(kind: PropertyKind) -> BoxedStrategy<(String, serde_json::Value)> {
    fn plain(
        text: impl Strategy<Value = String> + 'static,
    ) -> BoxedStrategy<(String, serde_json::Value)> {
        text.prop_map(|text| (text.clone(), json!(text))).boxed()
    }
    let number = |to: u64| {
        let number = prop_oneof![0..=to.min(64), 0..=to];
        number.prop_map(|n| (n.to_string(), json!(n))).boxed()
    };
    match kind {
        PropertyKind::Bool => any::<bool>()
            .prop_map(|on| ((if on { "on" } else { "off" }).to_owned(), json!(on)))
            .boxed(),
        PropertyKind::OnOffAuto => {
            plain(proptest::sample::select(vec!["on", "off", "auto"]).prop_map(str::to_owned))
        }
        PropertyKind::U8 => number(u8::MAX.into()),
        PropertyKind::U16 => number(u16::MAX.into()),
        PropertyKind::U32 => number(u32::MAX.into()),
        PropertyKind::U64 | PropertyKind::Size => number(i64::MAX.unsigned_abs()),
        PropertyKind::I32 => any::<i32>().prop_map(|n| (n.to_string(), json!(n))).boxed(),
        PropertyKind::Choice(words) => {
            plain(proptest::sample::select(words).prop_map(str::to_owned))
        }
        PropertyKind::Mac => plain("([0-9a-f]{2}:){5}[0-9a-f]{2}"),
        PropertyKind::PciAddr => plain("0x[0-9a-f](\\.0x[0-7])?"),
        _ => plain("[a-z][a-z0-9._:/ =-]{0,12}"),
    }
}

/// The option string of these members, and the JSON text.
fn both(driver: &str, members: &[(&str, (String, serde_json::Value))]) -> (String, String) {
    let (mut text, mut object) = (driver.to_owned(), Map::new());
    object.insert("driver".to_owned(), json!(driver));
    for (name, (plain, typed)) in members {
        text.push_str(&format!(",{name}={}", plain.replace(',', ",,")));
        object.insert((*name).to_owned(), typed.clone());
    }
    (text, serde_json::Value::Object(object).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn an_option_string_and_json_mean_the_same(
        (kind, property, value) in property().prop_flat_map(|(kind, property)| (Just(kind), Just(property), value(property.kind))),
    ) {
        let (text, json) = both(kind.name, &[(property.name, value)]);
        prop_assert_eq!(device(&text), device(&json), "{} and {}", text, json);
    }

    #[test]
    fn what_a_device_is_printed_as_is_read_as_the_same(
        (kind, property, value) in property().prop_flat_map(|(kind, property)| (Just(kind), Just(property), value(property.kind))),
        id in "[a-z][a-z0-9._-]{0,8}",
    ) {
        let (text, json) = both(kind.name, &[("id", (id.clone(), json!(id))), (property.name, value)]);
        for text in [text, json] {
            let options = Options::parse(&text, Some("driver")).unwrap();
            let printed = options.to_string();
            prop_assert_eq!(Options::parse(&printed, Some("driver")).unwrap().to_string(), printed.clone(), "{}", text);
            prop_assert_eq!(device(&printed), device(&text), "{}", text);
        }
    }

    #[test]
    fn a_value_that_is_refused_is_refused_by_its_property_s_name((kind, property) in property(), value: String) {
        let (text, json) = both(kind.name, &[(property.name, (value.clone(), json!(value)))]);
        // An interface's name, an address, or two properties that exclude each other have words of their own; types alone have not.
        let typed = matches!(
            property.kind,
            PropertyKind::Bool | PropertyKind::U8 | PropertyKind::U16 | PropertyKind::U32 | PropertyKind::I32 | PropertyKind::Mac
        );
        let unreadable = !value.bytes().any(|byte| byte.is_ascii_alphanumeric());
        for text in [text, json] {
            if let Err(message) = device(&text) && typed && unreadable {
                prop_assert!(message.contains(property.name), "{}: {}", text, message);
            }
        }
    }

    #[test]
    fn what_is_unknown_is_named(kind in 0..DEVICE_TYPES.len(), name in "nope[a-z_-]{0,8}", value: String) {
        let (text, json) = both(DEVICE_TYPES[kind].name, &[(&name, (value.clone(), json!(value)))]);
        for text in [text, json] {
            let message = device(&text).unwrap_err();
            prop_assert!(message.contains(&name), "{}: {}", text, message);
        }
        let netdev = Options::parse(&format!("user,id=n,{name}={}", value.replace(',', ",,")), Some("type")).unwrap();
        let message = NetdevConfig::from_options(netdev, Source::CommandLine).unwrap_err().to_string();
        prop_assert!(message.contains(&name), "{}", message);
    }

    #[test]
    fn no_text_of_a_device_makes_it_panic(text in prop_oneof![any::<String>(), "[a-z]{0,16}(,[a-z_.]{0,8}=?.{0,12}){0,4}"]) {
        let _ = device(&text);
        for source in [Source::CommandLine, Source::Monitor] {
            if let Ok(options) = Options::parse(&text, Some("type")) {
                let _ = NetdevConfig::from_options(options, source);
            }
        }
    }
}
