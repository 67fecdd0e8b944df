//! Rules of the recommendation, by section, each on the smallest page that shows it.

use super::*;

const PAGE: &str =
    "<!--c--><html><body><div id=a class='x y'><p>1<p>2<b>3</b></div><div id=b><p>4</p>t</div>";

#[track_caller]
fn value(html: &str, expression: &str) -> Value {
    let document = Document::parse(html);
    XPath::compile(expression).unwrap().evaluate(&document, document.root()).unwrap()
}

/// The strings of the nodes, with `|` between.
#[track_caller]
fn check_nodes(expression: &str, expect: &str) {
    let document = Document::parse(PAGE);
    let value = XPath::compile(expression).unwrap().evaluate(&document, document.root()).unwrap();
    assert!(matches!(value, Value::Nodes(_)), "{expression}");
    assert_eq!(value.texts(&document).join("|"), expect, "{expression}");
}

#[track_caller]
fn check_text(expression: &str, expect: &str) {
    assert_eq!(value(PAGE, expression), Value::Text(expect.to_owned()), "{expression}");
}

#[track_caller]
fn check_number(expression: &str, expect: f64) {
    let Value::Number(found) = value(PAGE, expression) else { panic!("{expression} is no number") };
    assert!(found == expect || (found.is_nan() && expect.is_nan()), "{expression}: {found}, not {expect}");
}

#[track_caller]
fn check_bool(expression: &str, expect: bool) {
    assert_eq!(value(PAGE, expression), Value::Bool(expect), "{expression}");
}

#[track_caller]
fn check_refused(expression: &str, message: &str) {
    assert_eq!(XPath::compile(expression).unwrap_err().to_string(), format!("XPath, {message}"));
}

#[track_caller]
fn check_fails(expression: &str, message: &str) {
    let document = Document::parse(PAGE);
    let error = XPath::compile(expression).unwrap().evaluate(&document, document.root()).unwrap_err();
    assert_eq!(error.to_string(), format!("XPath, {message}"));
}

#[test]
fn positions_count_per_parent_and_in_the_axis_direction() {
    check_nodes("//p[1]", "1|4");
    check_nodes("(//p)[1]", "1");
    check_nodes("//p[last()]", "23|4");
    check_nodes("(//p)[last()]", "4");
    check_nodes("//p[position() < 2]", "1|4");
    check_nodes("//p[2 > position()][1]", "1|4");
    check_nodes("//div[2]/p[1]", "4");
    check_nodes("//b/ancestor::*[1]", "23");
    check_nodes("(//b/ancestor::*)[last()]", "23");
    check_nodes("//b/ancestor::div[1]/@id", "a");
    check_nodes("//div[2]/preceding::p[1]", "23");
    check_nodes("//p[2]/preceding-sibling::*[1]", "1");
    check_nodes("/descendant::p[2]", "23");
    check_nodes("//p[b][1]", "23");
    check_nodes("//p[1][b]", "");
    check_nodes("//p[1.5]", "");
    check_nodes("//p[position() <= 1.5]", "1|4");
    check_nodes("//p['1']", "1|23|4");
}

#[test]
fn axes() {
    check_nodes("//div[1]/child::node()", "1|23");
    check_nodes("//b/parent::p", "23");
    check_nodes("//b/..", "23");
    check_nodes("//p[1]/following-sibling::p", "23");
    check_nodes("//p[1]/following::p", "23|4");
    check_nodes("//b/following::node()", "4t|4|4|t");
    check_nodes("//div[2]/preceding::b", "3");
    check_nodes("//b/preceding::*/self::p", "1");
    check_nodes("//b/ancestor-or-self::p/b", "3");
    check_nodes("//b/descendant-or-self::node()", "3|3");
    check_nodes("//div/attribute::class", "x y");
    check_nodes("//div/@*", "a|x y|b");
    check_nodes("//@id/..", "123|4t");
    check_nodes("//@id/parent::div[2]", "");
    check_nodes("//@id/self::node()", "a|b");
    check_nodes("//@id/ancestor-or-self::node()[1]", "a|b");
    check_nodes("//div/namespace::*", "");
    check_nodes("comment()", "c");
    check_nodes("//text()", "1|2|3|4|t");
    check_nodes("//b | //p | //b", "1|23|3|4");
    check_nodes("self::node()/.//b/.", "3");
    check_nodes("//processing-instruction('x')", "");
}

#[test]
fn section_3_4_comparisons() {
    check_bool("//p = 4", true);
    check_bool("4 = //p", true);
    check_bool("//p != 4", true);
    check_bool("not(//p = 5)", true);
    check_bool("//p > 22", true);
    check_bool("22 > //b", true);
    check_bool("//b > //p", true);
    check_bool("//p < //p", true);
    check_bool("//b < //p[1]", true);
    check_bool("//b = //p", false);
    check_bool("//b != //b", false);
    check_bool("//p != //p", true);
    check_bool("//none = //p", false);
    check_bool("//none != ''", false);
    check_bool("//none = false()", true);
    check_bool("//p = true()", true);
    check_bool("//none < true()", true);
    check_bool("'2' < '10'", true);
    check_bool("'a' = 'a'", true);
    check_bool("'1.0' = 1", true);
    check_bool("true() = 'x'", true);
    check_bool("'a' < 'b'", false);
    check_bool("3 > 2 > 1", false);
    check_bool("1 = 1 = 1", true);
    check_bool("0 div 0 = 0 div 0", false);
    check_bool("true() or none()", true);
    check_bool("false() and none()", false);
}

#[test]
fn section_3_5_numbers() {
    check_number("2 + 3 * 4 - 1", 13.0);
    check_number("(2 + 3) * 4", 20.0);
    check_number("7 - 3 - 2", 2.0);
    check_number("8 div 2 div 2", 2.0);
    check_number("5 mod -2", 1.0);
    check_number("-5 mod 2", -1.0);
    check_number("- - 3", 3.0);
    check_number("-//b | //none", -3.0);
    check_number("1 div 0", f64::INFINITY);
    check_number("'x' + 1", f64::NAN);
    check_number("true() + true()", 2.0);
}

#[test]
fn section_4_1_nodes() {
    check_number("count(//p | //b)", 4.0);
    check_number("last() + position()", 2.0);
    check_nodes("id('b a')/p[1]", "1|4");
    check_nodes("id(//none)", "");
    check_text("name(//@*)", "id");
    check_text("local-name(//p)", "p");
    check_text("name()", "");
    check_text("namespace-uri(//p)", "");
}

#[test]
fn section_4_2_strings() {
    check_text("string(//p)", "1");
    check_text("string(//none)", "");
    check_text("string(1 div 3 = 0)", "false");
    check_text("concat(1, 'a', //b)", "1a3");
    check_bool("starts-with('abc', 'ab')", true);
    check_bool("contains('abc', '')", true);
    check_bool("contains(//@class, string(//b))", false);
    check_text("substring-before('1999/04', '/')", "1999");
    check_text("substring-after('1999/04', '19')", "99/04");
    check_text("substring-after('a', 'x')", "");
    check_text("substring('12345', 2, 3)", "234");
    check_text("substring('12345', 1.5, 2.6)", "234");
    check_text("substring('12345', 0, 3)", "12");
    check_text("substring('12345', 0 div 0, 3)", "");
    check_text("substring('12345', 1, 0 div 0)", "");
    check_text("substring('12345', -42, 1 div 0)", "12345");
    check_text("substring('12345', -1 div 0, 1 div 0)", "");
    check_text("substring('äöü', 2, 1)", "ö");
    check_number("string-length('äöü')", 3.0);
    check_text("normalize-space(' a\n b ')", "a b");
    check_text("normalize-space('a b')", "a b");
    check_text("normalize-space('\u{a0}')", "\u{a0}");
    check_text("translate('--aäa--', 'aä-a', 'Abc')", "ccAbAcc");
    check_text("translate('--aaa--', 'abc-', 'ABC')", "AAA");
}

#[test]
fn section_4_3_and_4_4_booleans_and_numbers() {
    check_bool("boolean('false')", true);
    check_bool("not(0 div 0)", true);
    check_bool("boolean(//none)", false);
    check_number("number(//p[2])", 23.0);
    check_number("sum(//p)", 28.0);
    check_number("1 div sum(//none)", f64::INFINITY);
    check_number("floor(-2.5) + ceiling(-2.5)", -5.0);
    check_number("round(-2.5)", -2.0);
    let german = "<p xml:lang=de-AT>x<b>y</b>";
    assert_eq!(value(german, "count(//b[lang('DE')])"), Value::Number(1.0));
    assert_eq!(value(german, "boolean(//b[lang('de-A')])"), Value::Bool(false));
}

#[test]
fn classes_are_whole_tokens() {
    let page = "<i class='a'>1</i><i class='b a'>2</i><i class='ab a\nc'>3</i><i class='aa'>4</i>";
    let check = |expression: &str, expect: &str| {
        let document = Document::parse(page);
        let value = XPath::compile(expression).unwrap().evaluate(&document, document.root()).unwrap();
        assert_eq!(value.texts(&document).concat(), expect, "{expression}");
    };
    check("//i[contains(concat(' ', normalize-space(@class), ' '), ' a ')]", "123");
    check("//i[contains(concat(' ', @class, ' '), ' a ')]", "12");
    check("//*[contains(concat(' ', normalize-space(@class), ' '), ' ab a ')]", "3");
    check("//*[contains(@class, 'a')][2]", "2");
    check("//i[@class = 'a' or @class = 'aa']", "14");
    check("//*[@class][not(@class = 'a')]/@class", "b aab a\ncaa");
}

#[test]
fn document_order_after_foster_parenting() {
    let page = "<table><tr><td>2</td></tr><p>1</p></table><p>3</p>";
    let document = Document::parse(page);
    let all = XPath::compile("//p | //td").unwrap().evaluate(&document, document.root()).unwrap();
    assert_eq!(all.texts(&document), ["1", "2", "3"]);
}

#[test]
fn errors_say_where_and_why() {
    check_refused("//div[", "byte 6: expected an expression, found the end");
    check_refused("//p]", "byte 3: expected an operator or the end, found `]`");
    check_refused(
        "a/b/",
        "byte 4: expected the name of an element or attribute, `*` or a node type, found the end",
    );
    check_refused("//p[@x='y]", "byte 7: the string that begins here is never closed");
    check_refused("p[$n]", "byte 2: variable `$n` has no value; write the value itself");
    check_refused("uncle::p", "byte 0: `uncle` is no axis of XPath 1.0");
    check_refused("p#q", "byte 1: `#` begins nothing in XPath 1.0");
    check_refused("", "byte 0: expected an expression, found the end");
    check_fails("//p[matches(., 'x')]", "byte 4: `matches` is no function of XPath 1.0");
    check_fails("1 + count()", "byte 4: `count` takes one argument, not 0");
    check_fails("sum(1)", "byte 0: sum takes nodes, which this is not");
    check_fails("//p | 1", "byte 6: `|` takes nodes, which this is not");
    check_fails(
        "//og:title",
        "byte 0: prefix `og` stands for no namespace; compare `name()` with the whole name",
    );
}
