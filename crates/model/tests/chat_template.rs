//! Chat templates as published models have them, and templates that mean harm.

use elmwood_model::{
    ChatMessage, ChatTemplate, ChatTemplateFault, Error, MAX_TEMPLATE_BYTES, PLAIN_TEMPLATE,
};

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

#[test]
fn phi_3_turns_are_marked_by_role_and_end() {
    let source = "{% for message in messages %}\n    {{- '<|' + message['role'] + '|>\\n' }}\n    \
        {{- message['content'] + '<|end|>\\n' -}}\n{% endfor %}\n\
        {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";
    let expected =
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n Hi! <|end|>\n<|assistant|>\n";
    assert_eq!(render(source).unwrap(), expected);
}

#[test]
fn llama_2_puts_the_system_turn_into_the_first_user_turn() {
    let source = "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}\
        {% set rest = messages[1:] %}{% else %}{% set system = false %}{% set rest = messages %}{% endif %}\
        {% for message in rest %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('roles must take turns') }}{% endif %}{% if message.role == 'user' %}\
        {{ bos_token + '[INST] ' }}{% if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}\
        {% endif %}{{ message.content.strip() + ' [/INST]' }}{% else %}\
        {{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
    let expected = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi! </s>";
    assert_eq!(render(source).unwrap(), expected);
    let two = [ChatMessage::new("user", "a"), ChatMessage::new("user", "b")];
    let refused = ChatTemplate::new(source, "<s>", "</s>").unwrap().render(&two).unwrap_err();
    assert!(refused.to_string().contains("roles must take turns"), "{refused}");
}

#[test]
fn a_model_without_a_template_gets_a_plain_one() {
    assert_eq!(
        render(PLAIN_TEMPLATE).unwrap(),
        "system: Be brief.\n\nuser: Hello\n\nassistant:  Hi! \n\nassistant:"
    );
}

#[test]
fn templates_that_mean_harm_end_in_an_error() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert_eq!(fault(endless), ChatTemplateFault::OutOfFuel);
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(fault(deep), ChatTemplateFault::Failed { .. }), "{:?}", fault(deep));
    let long = "{% for a in range(20000) %}{{ 'x' * 100 }}{% endfor %}";
    assert_eq!(fault(long), ChatTemplateFault::OutputTooLong);
    assert!(matches!(fault("{% include '/etc/passwd' %}"), ChatTemplateFault::Failed { .. }));
    assert!(matches!(fault("{% if %}"), ChatTemplateFault::Syntax { .. }));
    let len = MAX_TEMPLATE_BYTES + 1;
    assert_eq!(fault(&"x".repeat(len)), ChatTemplateFault::TooLong { len });
}
