//! Pages: the frame around them, the language they are in, and the only way text gets into them.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// Nothing is loaded and no script runs; `form-action` stays open because the authorize page redirects to the app.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1f2329;--soft:#51565d;--paper:#fff;--ground:#f2f3f5;--line:#dee0e3;--edge:#8f959e;--link:#1456f0;
--red:#b42318;--green:#1a7f1a}
@media(prefers-color-scheme:dark){:root{--ink:#ebebeb;--soft:#a6aab0;--paper:#232527;--ground:#141516;--line:#3a3d40;--edge:#6b7075;--link:#7aa7ff;
--red:#ff8a80;--green:#7fd48a}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif;overflow-wrap:anywhere}
main{max-width:44rem;margin:0 auto;padding:1rem}
h1{font-size:1.35rem;line-height:1.35;margin:.5rem 0}h2{font-size:1rem;margin:0}
a{color:var(--link)}p{margin:.5rem 0}pre{white-space:pre-wrap;background:var(--ground);padding:.5rem;border-radius:.4rem}
hr{border:0;border-top:1px solid var(--line)}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid var(--line);padding:.4rem;text-align:left;vertical-align:top}
.panel,.card,.bubble{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;margin:.75rem 0;overflow:hidden}
.panel,.bubble{padding:1rem}
.card-head{padding:.6rem 1rem;background:color-mix(in srgb,var(--tint,#8f959e) 18%,var(--paper))}.card-body{padding:.6rem 1rem}
.row{display:flex;flex-wrap:wrap;gap:.5rem;align-items:flex-end}.row>.column{flex:1 1 12rem}.row>.column.auto{flex:0 0 auto}.row>label{flex:1 1 9rem;margin:0}
.row>label>select,.row>label>input{width:100%}
label{display:block;margin:.4rem 0}fieldset{border:1px solid var(--line);border-radius:.5rem;margin:.75rem 0}
input,select,textarea{font:inherit;padding:.45rem;border:1px solid var(--edge);border-radius:.4rem;max-width:100%;min-height:2.6rem;background:var(--paper);color:inherit}
input[type=radio],input[type=checkbox]{margin-right:.5rem;min-height:auto}
button,.button{font:inherit;display:inline-block;padding:.5rem 1rem;border:1px solid var(--edge);border-radius:.4rem;background:var(--paper);color:var(--ink);text-decoration:none;cursor:pointer;min-height:2.6rem}
button.primary,.button.primary{background:#1456f0;border-color:#1456f0;color:#fff}
button.danger,.button.danger{border-color:var(--red);color:var(--red)}
button:disabled{opacity:.5;cursor:not-allowed}
button:focus-visible,a:focus-visible,input:focus-visible,select:focus-visible{outline:3px solid #7aa7ff;outline-offset:2px}
.small{font-size:.85rem;color:var(--soft)}.toast{border-left:.3rem solid #1456f0;padding-left:.6rem}
.toast.error{border-color:#d83931}.toast.success{border-color:#2ea121}.toast.warning{border-color:#de7802}
.at{color:var(--link)}.gone{color:var(--soft);font-style:italic}
.red{color:var(--red)}.green{color:var(--green)}.grey{color:var(--soft)}
.blue{--tint:#3370ff}.wathet{--tint:#14c0ff}.turquoise{--tint:#00c2b2}.head-green{--tint:#34c724}.yellow{--tint:#ffc60a}
.orange{--tint:#ff8800}.head-red,.carmine{--tint:#f54a45}.violet,.purple{--tint:#9f6ff1}.indigo{--tint:#4954e6}
";

/// The two languages of every page and card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    En,
    Zh,
}

impl Language {
    /// The one of the two that `Accept-Language` prefers; English if it names neither.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut best = (Self::En, 0.0_f32);
        for range in header.split(',') {
            let mut parts = range.trim().split(';');
            let tag = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.trim().strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            let language = match tag.split('-').next() {
                Some("zh") => Self::Zh,
                Some("en") => Self::En,
                _ => continue,
            };
            if quality > best.1 {
                best = (language, quality);
            }
        }
        best.0
    }

    pub(crate) fn from_code(code: &str) -> Option<Self> {
        match code {
            "zh" => Some(Self::Zh),
            "en" => Some(Self::En),
            _ => None,
        }
    }

    pub(crate) fn code(self) -> &'static str {
        self.pick("en", "zh")
    }

    /// The key of this language in cards.
    pub(crate) fn card_key(self) -> &'static str {
        self.pick("en_us", "zh_cn")
    }

    pub(crate) fn pick(self, en: &'static str, zh: &'static str) -> &'static str {
        match self {
            Self::En => en,
            Self::Zh => zh,
        }
    }
}

/// Makes any text safe inside an element or a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// The address, if following it cannot run a script.
pub(crate) fn web_url(url: &str) -> Option<&str> {
    let url = url.trim();
    let scheme = url.split_once("://")?.0;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(url)
}

/// A whole page; `body` is HTML already, `title` is not.
pub(crate) fn page(status: StatusCode, language: Language, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{}</title><style>{STYLE}</style>\
         </head><body><main>{body}</main></body></html>",
        language.pick("en", "zh-CN"),
        escape(title),
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, Html(html)).into_response()
}

/// Card markdown and message text as HTML: line breaks, lists, emphasis, code, links, mentions and characters by number; all else is text.
pub(crate) fn markdown(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("- ") {
        Some(item) => format!("• {}", inline(item, 0)),
        None => inline(line, 0),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("<br>")
}

fn inline(text: &str, depth: usize) -> String {
    const DEEPEST: usize = 8;
    let mut html = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let span = if depth < DEEPEST { span(rest, depth) } else { None };
        if let Some((rendered, after)) = span {
            html.push_str(&rendered);
            rest = after;
        } else {
            let (plain, after) = rest.split_at(first.len_utf8());
            html.push_str(&escape(plain));
            rest = after;
        }
    }
    html
}

/// The markup at the start of `text`, rendered, and what follows it.
fn span(text: &str, depth: usize) -> Option<(String, &str)> {
    for (mark, element) in [("**", "strong"), ("~~", "del"), ("*", "em")] {
        if let Some((inner, after)) = text.strip_prefix(mark).and_then(|rest| rest.split_once(mark))
            && !inner.is_empty()
        {
            return Some((format!("<{element}>{}</{element}>", inline(inner, depth + 1)), after));
        }
    }
    if let Some((number, after)) = text.strip_prefix("&#").and_then(|rest| rest.split_once(';'))
        && let Some(character) = number.parse().ok().and_then(char::from_u32)
    {
        return Some((escape(character.encode_utf8(&mut [0; 4])), after));
    }
    if let Some((code, after)) = text.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
        return Some((format!("<code>{}</code>", escape(code)), after));
    }
    if let Some((label, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]("))
        && let Some((url, after)) = rest.split_once(')')
        && let Some(url) = web_url(url)
    {
        let label = inline(label, depth + 1);
        return Some((
            format!("<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">{label}</a>", escape(url)),
            after,
        ));
    }
    let (tag, rest) = text.strip_prefix('<')?.split_once('>')?;
    match tag.split([' ', '=']).next()? {
        "br" | "br/" => Some(("<br>".to_owned(), rest)),
        "b" => rest
            .split_once("</b>")
            .map(|(inner, after)| (format!("<strong>{}</strong>", inline(inner, depth + 1)), after)),
        "at" => {
            let (name, after) = rest.split_once("</at>")?;
            let id = tag.split_once('=').map(|(_, id)| id.trim_matches(['"', '\'', '/', ' '])).unwrap_or_default();
            let shown = if name.is_empty() { id } else { name };
            Some((format!("<span class=\"at\">@{}</span>", escape(shown)), after))
        }
        "font" => {
            let (inner, after) = rest.split_once("</font>")?;
            let color = ["red", "green", "grey"].into_iter().find(|color| tag.contains(color)).unwrap_or_default();
            Some((format!("<span class=\"{color}\">{}</span>", inline(inner, depth + 1)), after))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_keeps_hostile_text_inert() {
        for (text, html) in [
            ("**粗体** 🌸", "<strong>粗体</strong> 🌸"),
            ("a\nb", "a<br>b"),
            ("a:\n- b\n- *c*-", "a:<br>• b<br>• <em>c</em>-"),
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
            (
                "[**x**](https://e/?a=\"b)",
                "<a href=\"https://e/?a=&quot;b\" target=\"_blank\" rel=\"noopener noreferrer\"><strong>x</strong></a>",
            ),
            ("<at id=ou_1></at>", "<span class=\"at\">@ou_1</span>"),
            ("<at id=x onclick=y><b>&</at>", "<span class=\"at\">@&lt;b&gt;&amp;</span>"),
            ("<font color='red\" x'>r</font>", "<span class=\"red\">r</span>"),
            ("`<b>`", "<code>&lt;b&gt;</code>"),
            ("2 * 3", "2 * 3"),
            ("**task&#58;read** &#42;&#60;b&#62;", "<strong>task:read</strong> *&lt;b&gt;"),
            ("&#; &#1114112; &#x3c; &", "&amp;#; &amp;#1114112; &amp;#x3c; &amp;"),
            ("**", "**"),
        ] {
            assert_eq!(markdown(text), html);
        }
    }

    #[test]
    fn hostile_nesting_ends() {
        let deep = format!("{}x{}", "[".repeat(5_000), "](https://a)".repeat(5_000));
        assert!(markdown(&deep).len() < 10 * deep.len());
    }

    #[test]
    fn the_language_with_the_higher_quality_wins() {
        for (header, expected) in [
            ("", Language::En),
            ("zh-CN,zh;q=0.9,en;q=0.8", Language::Zh),
            ("en-GB,zh;q=0.5", Language::En),
            ("fr, zh-TW;q=0.3", Language::Zh),
            ("zh;q=0.1,en;q=0.2", Language::En),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(header))]);
            assert_eq!(Language::accepted(&headers), expected, "{header}");
        }
    }
}
