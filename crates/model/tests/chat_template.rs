//! Chat templates: what Jinja2 makes of templates as published models have them, and templates that mean harm.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use elmwood_model::{
    ChatMessage, ChatTemplate, ChatTemplateFault, Error, MAX_TEMPLATE_BYTES, PLAIN_TEMPLATE,
};
use serde_json::Value;

fn chat() -> [ChatMessage; 3] {
    [("system", "Be brief."), ("user", "Hello"), ("assistant", " Hi! ")]
        .map(|(role, text)| ChatMessage::new(role, text))
}

fn render(source: &str) -> Result<String, Error> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(&chat())
}

fn fault(source: &str) -> ChatTemplateFault {
    match render(source) {
        Err(Error::ChatTemplate { fault }) => fault,
        other => panic!("{other:?}"),
    }
}

/// Phi-3, Llama, Mistral, Qwen, Gemma, Zephyr and ChatML, and a template of every operator: see
/// `tests/golden/make_chat_templates.py`.
#[test]
fn published_templates_give_what_jinja2_makes_of_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/chat_templates");
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let (mut rendered, mut refused) = (0, 0);
    for (name, by_chat) in golden["expected"].as_object().unwrap() {
        let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        for (chat, expected) in by_chat.as_object().unwrap() {
            let turns = golden["chats"][chat].as_array().unwrap();
            let text = |turn: &Value, key: &str| turn[key].as_str().unwrap().to_owned();
            let turns: Vec<ChatMessage> = turns
                .iter()
                .map(|turn| ChatMessage::new(text(turn, "role"), text(turn, "content")))
                .collect();
            let text = template.render(&turns);
            match (expected.as_str(), expected["error"].as_str()) {
                (Some(expected), _) => assert_eq!(text.unwrap(), expected, "{name} of {chat}"),
                (None, Some(reason)) => {
                    let error = text.unwrap_err().to_string();
                    assert!(error.contains(reason), "{name} of {chat}: {error}");
                    refused += 1;
                }
                _ => panic!("{name} of {chat}"),
            }
            rendered += 1;
        }
    }
    assert!(rendered == 70 && refused > 2, "{rendered} rendered, {refused} refused");
}

#[test]
fn a_model_without_a_template_gets_a_plain_one() {
    let expected = "system: Be brief.\n\nuser: Hello\n\nassistant:  Hi! \n\nassistant:";
    assert_eq!(render(PLAIN_TEMPLATE).unwrap(), expected);
}

#[test]
fn templates_know_the_date() {
    let year = render("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}").unwrap();
    assert!((2025..2200).contains(&year.parse().unwrap()), "{year}");
}

#[test]
fn templates_that_mean_harm_end_in_an_error() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert_eq!(fault(endless), ChatTemplateFault::OutOfFuel);
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(fault(deep), ChatTemplateFault::Failed { .. }), "{:?}", fault(deep));
    let long = "{% for a in range(20000) %}{{ 'x' * 100 }}{% endfor %}";
    assert_eq!(fault(long), ChatTemplateFault::OutputTooLong);
    assert!(matches!(fault("{% include '/etc/passwd' %}"), ChatTemplateFault::Syntax { .. }));
    assert!(matches!(fault("{% if %}"), ChatTemplateFault::Syntax { .. }));
    let len = MAX_TEMPLATE_BYTES + 1;
    assert_eq!(fault(&"x".repeat(len)), ChatTemplateFault::TooLong { len });
}

/// The template ends in an error within ten seconds, which leaves much room for slow machines: none takes one.
#[track_caller]
fn ends(source: &str) {
    let start = Instant::now();
    let fault = fault(source);
    assert!(start.elapsed() < Duration::from_secs(10), "{fault} after {:?}", start.elapsed());
    assert!(fault.to_string().len() < 2000, "{fault}");
}

/// What templates do with a value that is much larger than it looks.
const USES: [&str; 20] = [
    "{{ ns.a }}",
    "{% set x %}{{ ns.a }}{% endset %}",
    "{{ ns.a ~ '' }}",
    "{{ ns.a == ns.b }}",
    "{{ ns.a < ns.b }}",
    "{{ ns.a in [ns.b] }}",
    "{{ {ns.a: 1} }}",
    "{{ {'x': 1}[ns.a] }}",
    "{{ ns.a | tojson }}",
    "{{ ns.a | string }}",
    "{{ ns.a | join }}",
    "{{ ''.join([ns.a]) }}",
    "{{ [ns.a, ns.b] | sort }}",
    "{{ [ns.a, ns.b] | unique }}",
    "{{ [ns.a, ns.b] | min }}",
    "{{ [ns.a, ns.b] | select('eq', ns.b) | list }}",
    "{{ ns.a is eq(ns.b) }}",
    "{{ '%s' | format(ns.a) }}",
    "{{ raise_exception(ns.a ~ '') }}",
    "{{ [ns.a, ns.b].count(ns.b) }}",
];

#[test]
fn a_value_that_holds_itself_is_not_used() {
    for user in USES {
        for own in ["ns", "[ns]", "{'x': ns}", "(ns, ns)", "namespace(x=ns)"] {
            ends(&format!(
                "{{% set ns = namespace() %}}{{% set ns.a = {own} %}}{{% set ns.b = {own} %}}{user}{{{{ ns }}}}"
            ));
        }
    }
}

#[test]
fn parts_that_are_shared_are_paid_for_each_time() {
    let grow = "{% set ns = namespace(a=[0], b=[0]) %}{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}\
        {% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    USES.iter().for_each(|user| ends(&format!("{grow}{user}")));
    let unrolled = "{% set ns = namespace() %}{% set x = (0,) %}".to_owned()
        + &"{% set x = (x, x) %}".repeat(40)
        + "{% set ns.a = x %}{% set ns.b = x %}";
    USES.iter().for_each(|user| ends(&format!("{unrolled}{user}")));
}

#[test]
fn nesting_does_not_overflow_the_stack() {
    let grow = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(2500) %}\
        {% set ns.a = [[[[[[[[[[ns.a]]]]]]]]]] %}{% set ns.b = [[[[[[[[[[ns.b]]]]]]]]]] %}{% endfor %}";
    USES.iter().for_each(|user| ends(&format!("{grow}{user}")));
    // As deep as fuel allows: nothing is used, all is released.
    let deepest = "{% set ns = namespace(a=[]) %}{% for i in range(99999) %}\
        {% set ns.a = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[ns.a]]]]]]]]]]]]]]]]]]]]]]]]]]]]]] %}{% endfor %}";
    assert_eq!(fault(deepest), ChatTemplateFault::OutOfFuel);
    for (open, close) in
        [("(", ")"), ("[", "]"), ("-", ""), ("not ", ""), ("1+", ""), ("1~", ""), ("1**", "")]
    {
        for times in [1900, 10_000] {
            let source = format!("{{{{ {}1{} }}}}", open.repeat(times), close.repeat(times));
            let _ = render(&source);
        }
    }
    let _ = render(&("{% if 1 %}".repeat(3000) + &"{% endif %}".repeat(3000)));
    let _ = render(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5000)));
}

#[test]
fn what_grows_is_bounded() {
    for source in [
        "{% set ns = namespace(l=[0]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(60) %}{% set ns.l = ns.l | chain(ns.l) | list %}{% endfor %}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(99999) %}{% set ns.l = ns.l[::-1] + [0] %}{% endfor %}",
        "{% set x = 'x' * 10**9 %}",
        "{% set x = [0] * 10**9 %}",
        "{% set x = [0] %}{% set x = x * 10**9 %}",
        "{{ ([[[0] * 9999] * 9999] * 9999) ~ '' }}",
        "{{ ((((1,) * 32,) * 32,) * 32,) * 32 ~ '' }}",
        "{{ [0] * 9 in [[0] * 9] }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(0, -9223372036854775808, -1) %}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% set x = s.replace('', s) %}",
        "{% set s = 'x' * 1000000 %}{% set x = s | replace('x', s) %}",
        "{% set s = 'x' * 1000000 %}{% set x = [s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s] | join(s) %}",
        "{% set s = 'x' * 1000000 %}{% set x = s.join('x' * 100000) %}",
        "{% set x = '{:>2000000000}'.format('x') %}",
        "{% set x = '%2000000000d' | format(1) %}",
        "{% set x = 'x\n' | indent(2000000000) %}",
        "{% set x = [1, 2] | tojson(indent=2000000000) %}",
        "{% set x = [1] | batch(2000000000, 0) | list %}",
        "{% set x = [1] | slice(2000000000, 0) | list %}",
        "{% set x = ('x' * 10000000).split('') %}",
        "{% set s = 'x' * 9000000 %}{% for i in range(99999) %}{% if s == s ~ '' %}{% endif %}{% endfor %}",
        "{% set s = 'x' * 9000000 %}{% for i in range(99999) %}{% if s[8999999] is lower %}{% endif %}{% endfor %}",
        "{{ debug() }}",
        "{{ messages | length < 4 < 5 }}",
        "{% for i in [1] %}{{ loop.changed([1]) }}{% endfor %}",
    ] {
        ends(source);
    }
}
