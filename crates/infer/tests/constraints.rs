//! Whatever a model would rather write, the text has the form that it must have, or it is said that it has not.

mod common;

use std::ops::ControlFlow::Continue;

use common::{local_of, weights_of};
use elmwood_engine::{CacheFormat, Cpu, Dtype};
use elmwood_infer::{Error, Finish, Form, Generator, Request, Sampler, Sampling, Vocabulary};
use elmwood_model::Tokenizer;
use serde_json::Value;

fn tokenizer() -> Tokenizer {
    let text = r#"{"name": "Zoë", "age": 31, "tags": ["a", "bc"], "ok": true, "sub": null} The cat sat. "#;
    Tokenizer::train([text.repeat(30)].into_iter(), 330, |_| {}).unwrap()
}

/// What a model with random weights writes with each of some seeds: the text, why it ends, and whether it has the form.
fn write(form: &Form, max_tokens: usize) -> Vec<(String, Finish, bool)> {
    let (cpu, tokenizer) = (Cpu::new(2).unwrap(), tokenizer());
    let vocabulary = Vocabulary::new(&tokenizer).unwrap();
    // More logits than there are tokens, as where a vocabulary is padded.
    let model = local_of(&cpu, Dtype::F32, weights_of(tokenizer.vocab_size() + 6, 2000));
    let mut generator = Generator::new(&model, &cpu, 2000, CacheFormat::F32);
    let one = |seed| {
        let mut sampler =
            Sampler::new(Sampling { temperature: 1.0, top_p: 1.0, seed, ..Sampling::default() }).unwrap();
        let mut constraint = vocabulary.constraint(form).unwrap();
        let request = Request {
            ends: tokenizer.end_of_generation(),
            constraint: Some(&mut constraint),
            ..Request::new(&[0], max_tokens, &mut sampler)
        };
        let answer = generator.answer(&tokenizer, request, &[], |_| Continue(())).unwrap();
        (answer.text, answer.finish, answer.has_form)
    };
    (0..20).map(one).collect()
}

#[test]
fn json_texts_have_their_schema() {
    let is = |value: &Value, key: &str, good: fn(&Value) -> bool| value.get(key).is_some_and(good);
    type Case<'a> = (&'a str, &'a dyn Fn(&Value) -> bool);
    let cases: [Case<'_>; 6] = [
        (r#"{"type": "integer", "minimum": -3, "maximum": 40}"#, &|value| {
            (-3..=40).contains(&value.as_i64().unwrap())
        }),
        (r#"{"enum": ["one", 2, null, {"a": []}]}"#, &|value| {
            ["\"one\"", "2", "null", "{\"a\":[]}"].contains(&&*value.to_string())
        }),
        (
            r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer",
                "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false}"#,
            &|value| {
                let short = |name: &Value| name.as_str().is_some_and(|name| name.chars().count() <= 5);
                is(value, "name", short) && is(value, "age", Value::is_u64)
            },
        ),
        (
            r##"{"$defs": {"node": {"type": "object", "properties": {"v": {"type": "boolean"}, "next": {"anyOf":
                [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["v", "next"], "additionalProperties":
                false}}, "$ref": "#/$defs/node"}"##,
            &|value| {
                std::iter::successors(Some(value), |node| node.get("next").filter(|next| !next.is_null()))
                    .all(|node| is(node, "v", Value::is_boolean))
            },
        ),
        (
            r#"{"type": "array", "items": {"type": "string", "pattern": "^[a-c]{2}$"}, "minItems": 1, "maxItems": 3}"#,
            &|value| {
                let good = |item: &Value| item.as_str().is_some_and(|item| item.len() == 2 && item >= "aa");
                value.as_array().is_some_and(|items| (1..=3).contains(&items.len()) && items.iter().all(good))
            },
        ),
        (r#"{"type": "string", "format": "date"}"#, &|value| {
            value.as_str().is_some_and(|date| date.len() == 10 && date.split('-').count() == 3)
        }),
    ];
    for (schema, good) in cases {
        let mut ended = 0;
        for (text, finish, has_form) in write(&Form::JsonSchema(schema.into()), 1500) {
            if !has_form {
                assert_eq!(finish, Finish::Length, "{text}");
                continue;
            }
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(good(&value), "{schema}: {text}");
            ended += 1;
        }
        assert!(ended >= 15, "{schema}: only {ended} came to an end");
    }
}

#[test]
fn expressions_and_grammars_match_as_a_whole() {
    for (text, finish, has_form) in write(&Form::Regex("(yes|no), [0-9]{2,3}(é|ß)!".into()), 100) {
        let (word, rest) = text.split_once(", ").unwrap();
        assert!(["yes", "no"].contains(&word), "{text}");
        let digits = rest.strip_suffix('!').unwrap().trim_end_matches(['é', 'ß']);
        assert!((2..=3).contains(&digits.len()) && digits.parse::<u32>().is_ok(), "{text}");
        assert!(has_form && finish == Finish::Complete, "{text}, {finish:?}");
    }
    let lark = "start: \"(\" start \")\" | /[a-z]/";
    for (text, _, has_form) in write(&Form::Lark(lark.into()), 300) {
        let open = text.bytes().take_while(|byte| *byte == b'(').count();
        assert_eq!(has_form, text.len() == 2 * open + 1 && text.ends_with(&")".repeat(open)), "{text}");
    }
    // A text that is cut short may have its form all the same.
    assert!(
        write(&Form::Regex("[a-z]+".into()), 3)
            .iter()
            .all(|(text, _, has_form)| *has_form && !text.is_empty())
    );
    assert!(
        write(&Form::Regex("[a-z]{50}".into()), 3)
            .iter()
            .all(|(_, finish, has_form)| { (*finish, *has_form) == (Finish::Length, false) })
    );
}

#[test]
fn a_space_at_the_start_is_part_of_the_form() {
    assert!(write(&Form::Regex(" [a-z]{3}".into()), 10).iter().all(|(text, ..)| text.starts_with(' ')));
}

#[test]
fn forms_that_cannot_be_had_are_refused_with_the_reason() {
    let vocabulary = Vocabulary::new(&tokenizer()).unwrap();
    let fails = |form: Form, part: &str| match vocabulary.constraint(&form) {
        Err(Error::Constraint(why)) => assert!(why.contains(part), "{form:?}: {why}"),
        other => panic!("{form:?}: {other:?}"),
    };
    let schema = |text: &str| Form::JsonSchema(text.into());
    fails(schema(r#"{"type": "array", "uniqueItems": true}"#), "`uniqueItems`");
    fails(schema(r#"{"type": "string", "format": "shoe-size"}"#), "shoe-size");
    fails(schema(r#"{"type": "string", "pattern": "(?=a)"}"#), "look");
    fails(schema(r#"{"type": "text"}"#), "text");
    fails(schema(r#"{"type": "integer", "minimum": 3, "maximum": 1}"#), "3");
    fails(schema(r#"{"oneOf": [{"minimum": 1}, {"maximum": 5}]}"#), "write `anyOf`");
    fails(schema(r##"{"$ref": "#/$defs/none"}"##), "none");
    fails(schema(r#"{"properties": {"a": 3}}"#), "no JSON schema");
    fails(schema("nonsense"), "no JSON");
    fails(Form::Regex("(".into()), "unclosed");
    fails(Form::Regex("a(?!b)".into()), "look");
    fails(Form::Lark("nonsense".into()), "");
}
