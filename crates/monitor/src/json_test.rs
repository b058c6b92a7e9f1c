use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse(input: &[u8]) -> Vec<Result<Value, String>> {
    let mut stream = JsonStream::new();
    let mut messages = Vec::new();
    for byte in input {
        stream.feed(*byte);
        while let Some(message) = stream.next_message() {
            messages.push(message);
        }
    }
    messages
}

fn one_error(input: &str) -> String {
    match parse(input.as_bytes()).as_slice() {
        [Err(text)] => text.clone(),
        other => panic!("{input}: {other:?}"),
    }
}

#[test]
fn values_follow_each_other_without_separators() {
    let messages = parse(br#"{"a":1}{"b":[true,null,-1.5e2,"x"]} {'c': 'it"s'}"#);
    assert_eq!(
        messages,
        vec![
            Ok(json!({"a": 1})),
            Ok(json!({"b": [true, null, -150.0, "x"]})),
            Ok(json!({"c": "it\"s"})),
        ]
    );
}

#[test]
fn numbers_keep_64_bits() {
    assert_eq!(
        parse(b"[18446744073709551615, -9223372036854775808, 0, 18446744073709551616]"),
        vec![Ok(json!([
            18_446_744_073_709_551_615_u64,
            -9_223_372_036_854_775_808_i64,
            0,
            18_446_744_073_709_551_616.0
        ]))]
    );
}

#[test]
fn strings_unescape() {
    assert_eq!(
        parse(br#""\u00e4\ud83d\ude00\n\/\'""#),
        vec![Ok(json!("ä😀\n/'"))]
    );
    assert_eq!(
        one_error(r#"["\ud83d"]"#),
        r"JSON parse error, \ud83d is not a valid Unicode character"
    );
    assert_eq!(
        one_error(r#"["\u12"]"#),
        r#"JSON parse error, \u12" is not a valid Unicode character"#
    );
    assert!(one_error(r#"["\u0000"]"#).contains("is not a valid"));
    assert_eq!(
        one_error(r#"["\x"]"#),
        "JSON parse error, invalid escape sequence in string"
    );
    assert_eq!(
        parse(b"[\"\xc3\x28\"]"),
        vec![Err(
            "JSON parse error, invalid UTF-8 sequence in string".to_owned()
        )]
    );
}

#[test]
fn errors_read_as_qemus() {
    for (input, text) in [
        (r#"{"execute": bad}"#, "invalid keyword 'bad'"),
        ("bad\n", "invalid keyword 'bad'"),
        ("{bad: 1}", "invalid keyword 'bad'"),
        ("{1: 2}", "key is not a string in object"),
        (r#"{"a" 1}"#, "missing : in object pair"),
        (r#"{"a": 1 "b": 2}"#, "expected separator in dict"),
        ("[1 2]", "expected separator in list"),
        (r#"{"a": }"#, "expecting value"),
        ("[1,]", "expecting value"),
        ("}", "expecting value"),
        (r#"{"a": 1, "a": 2}"#, "duplicate key"),
        ("{[}]", "expecting value"),
        ("{[1]: 2}", "key is not a string in object"),
        ("{true: 2}", "key is not a string in object"),
        ("%", "stray '%'"),
        ("01 ", "stray '01'"),
        ("-x\n", "stray '-x'"),
    ] {
        assert_eq!(
            one_error(input),
            format!("JSON parse error, {text}"),
            "{input}"
        );
    }
}

#[test]
fn the_stream_goes_on_after_garbage() {
    for garbage in [
        "%%%% junk\n",
        "{\"a\": $ \n",
        "\"unfinished\n",
        "{\"x\": bad}",
        "]",
        "1.\n",
    ] {
        let mut input = garbage.as_bytes().to_vec();
        input.extend_from_slice(b"\xff{\"execute\": \"x\"}");
        let messages = parse(&input);
        assert!(
            messages.first().is_some_and(Result::is_err),
            "{garbage}: {messages:?}"
        );
        assert_eq!(
            messages.last(),
            Some(&Ok(json!({"execute": "x"}))),
            "{garbage}"
        );
    }
}

#[test]
fn a_byte_ff_brings_the_stream_into_a_known_state() {
    for input in [
        &b"\xff{}"[..],
        b"{\"a\": \xff{}",
        b"\"a\xff{}",
        b"[1, 2\xff{}",
    ] {
        let messages = parse(input);
        assert!(
            matches!(messages.as_slice(), [Err(_), Ok(_)]),
            "{input:?}: {messages:?}"
        );
    }
}

#[test]
fn limits_are_told_and_skipped() {
    let deep = format!("{}\n{{}}", "[".repeat(100_000));
    assert_eq!(
        parse(deep.as_bytes()),
        vec![
            Err("JSON nesting depth limit exceeded".to_owned()),
            Ok(json!({}))
        ]
    );
    let mut long = vec![b'"'];
    long.resize(MAX_MESSAGE_BYTES + 1000, b'x');
    long.extend_from_slice(b"\n{}");
    assert_eq!(
        parse(&long),
        vec![
            Err("JSON token size limit exceeded".to_owned()),
            Ok(json!({}))
        ]
    );
    let many = format!("[{}\n{{}}", "0,".repeat(MAX_MESSAGE_TOKENS));
    assert_eq!(
        parse(many.as_bytes()),
        vec![
            Err("JSON token count limit exceeded".to_owned()),
            Ok(json!({}))
        ]
    );
    let spaces = vec![b' '; MAX_MESSAGE_BYTES * 2];
    assert_eq!(parse(&spaces), vec![]);
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(|x: f64| json!(x)),
        "[^\u{0}]*".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[^\u{0}]{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_writes_is_read_back(value in json_value()) {
        let mut text = serde_json::to_vec(&value).expect("a value is JSON");
        text.push(b'\n');
        prop_assert_eq!(parse(&text), vec![Ok(value)]);
    }

    #[test]
    fn any_bytes_leave_the_stream_usable(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut input = garbage;
        // Where the garbage ends in the middle of a string, the reset ends it.
        input.extend_from_slice(b"\xff\n{\"execute\": \"query-status\"}");
        let messages = parse(&input);
        prop_assert_eq!(messages.last(), Some(&Ok(json!({"execute": "query-status"}))));
    }

    #[test]
    fn json_like_bytes_leave_the_stream_usable(garbage in "[\\[\\]{}:,\"'a-c\\\\0-2.e\\- \n]{0,200}") {
        let mut input = garbage.into_bytes();
        input.extend_from_slice(b"\xff\n{\"execute\": \"query-status\"}");
        let messages = parse(&input);
        prop_assert_eq!(messages.last(), Some(&Ok(json!({"execute": "query-status"}))));
    }
}
