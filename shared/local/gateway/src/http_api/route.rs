//! Which route of an HTTP API a request takes: a full match before a greedy one before `$default`.

use std::collections::{BTreeMap, HashSet};

use percent_encoding::percent_decode_str;

use crate::{authorizer::Gate, error::ConfigError, http_api::HttpRoute};

const DEFAULT: &str = "$default";
const METHODS: [&str; 8] = ["ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) route_key: String,
    pub(crate) function: String,
    pub(crate) gate: Option<Gate>,
    /// `None` is `$default`.
    pattern: Option<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    method: String,
    segments: Vec<Segment>,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Literal(String),
    Parameter(String),
    /// `{name+}`: all that is left, at least one character.
    Greedy(String),
}

/// How good a match is; greater wins. Segments are weighed from the left: literal, parameter, greedy.
type Rank = (bool, Vec<u8>, bool);

#[derive(Debug)]
pub(crate) struct Router {
    routes: Vec<Route>,
}

impl Router {
    pub(crate) fn new(routes: &[HttpRoute]) -> Result<Self, ConfigError> {
        let mut seen = HashSet::new();
        let parse = |route: &HttpRoute| {
            if !seen.insert(route.route_key.clone()) {
                return Err(ConfigError::DuplicateRouteKey(route.route_key.clone()));
            }
            Ok(Route {
                route_key: route.route_key.clone(),
                function: route.function.clone(),
                gate: route.authorizer.as_ref().map(Gate::new).transpose()?,
                pattern: parse_route_key(&route.route_key)
                    .map_err(|reason| ConfigError::RouteKey { route_key: route.route_key.clone(), reason })?,
            })
        };
        Ok(Self { routes: routes.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// The route for `method` and `path` (still percent-encoded, without the stage), with its decoded path parameters.
    pub(crate) fn choose(&self, method: &str, path: &str) -> Option<(&Route, BTreeMap<String, String>)> {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let best = self
            .routes
            .iter()
            .filter_map(|route| route.matches(method, &segments))
            .max_by(|one, other| one.rank.cmp(&other.rank))?;
        Some((best.route, best.parameters))
    }
}

/// A route that fits a request.
struct Match<'a> {
    /// `None`, the lowest, is `$default`.
    rank: Option<Rank>,
    route: &'a Route,
    parameters: BTreeMap<String, String>,
}

impl Route {
    fn matches(&self, method: &str, path: &[&str]) -> Option<Match<'_>> {
        let (rank, parameters) = match &self.pattern {
            None => (None, BTreeMap::new()),
            Some(pattern) => {
                let (rank, parameters) = pattern.matches(method, path)?;
                (Some(rank), parameters)
            }
        };
        Some(Match { rank, route: self, parameters })
    }
}

impl Pattern {
    fn matches(&self, method: &str, path: &[&str]) -> Option<(Rank, BTreeMap<String, String>)> {
        let same_method = self.method == method;
        if !same_method && self.method != "ANY" {
            return None;
        }
        let mut parameters = BTreeMap::new();
        let mut weights = Vec::with_capacity(self.segments.len());
        let mut rest = path;
        for segment in &self.segments {
            let (first, behind) = rest.split_first()?;
            rest = behind;
            let weight = match segment {
                Segment::Literal(text) if *text == decoded(first) => 2,
                Segment::Parameter(name) if !first.is_empty() => {
                    parameters.insert(name.clone(), decoded(first));
                    1
                }
                Segment::Greedy(name) => {
                    let all = std::iter::once(first).chain(behind).copied().collect::<Vec<_>>().join("/");
                    if all.is_empty() {
                        return None;
                    }
                    parameters.insert(name.clone(), decoded(&all));
                    rest = &[];
                    0
                }
                Segment::Literal(_) | Segment::Parameter(_) => return None,
            };
            weights.push(weight);
        }
        let full = !matches!(self.segments.last(), Some(Segment::Greedy(_)));
        rest.is_empty().then_some(((full, weights, same_method), parameters))
    }
}

pub(crate) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn parse_route_key(route_key: &str) -> Result<Option<Pattern>, &'static str> {
    if route_key == DEFAULT {
        return Ok(None);
    }
    let (method, path) = route_key.split_once(' ').ok_or("it is neither `$default` nor a method and a path")?;
    if !METHODS.contains(&method) {
        return Err("its method is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT and ANY");
    }
    let path = path.strip_prefix('/').ok_or("its path does not begin with `/`")?;
    let segments = path.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?;
    let mut names = HashSet::new();
    for (index, segment) in segments.iter().enumerate() {
        match segment {
            Segment::Greedy(_) if index + 1 < segments.len() => {
                return Err("its greedy parameter is not the last segment");
            }
            Segment::Greedy(name) | Segment::Parameter(name) if !names.insert(name) => {
                return Err("it uses one parameter name twice");
            }
            _ => {}
        }
    }
    Ok(Some(Pattern { method: method.to_owned(), segments }))
}

fn parse_segment(text: &str) -> Result<Segment, &'static str> {
    let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return if text.contains(['{', '}']) {
            Err("a parameter is only a part of its segment")
        } else {
            Ok(Segment::Literal(text.to_owned()))
        };
    };
    let (name, greedy) = inner.strip_suffix('+').map_or((inner, false), |name| (name, true));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Err("a parameter's name is empty or has characters other than letters, digits, `_`, `-` and `.`");
    }
    Ok(if greedy { Segment::Greedy(name.to_owned()) } else { Segment::Parameter(name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(keys: &[&str]) -> Result<Router, ConfigError> {
        let routes: Vec<_> = keys.iter().map(|key| HttpRoute::new(*key, "f")).collect();
        Router::new(&routes)
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            "GET /pets/dog/1",
            "GET /pets/dog/{id}",
            "ANY /pets/dog/{id}",
            "GET /pets/{proxy+}",
            "ANY /{proxy+}",
            "GET /pets/{kind}/toys",
            "POST /pets/dog/1",
            "GET /",
            "$default",
        ];
        let cases = [
            ("GET", "/pets/dog/1", "GET /pets/dog/1"),
            ("GET", "/pets/dog/2", "GET /pets/dog/{id}"),
            ("PUT", "/pets/dog/2", "ANY /pets/dog/{id}"),
            ("PUT", "/pets/dog/1", "ANY /pets/dog/{id}"),
            ("GET", "/pets/dog/toys", "GET /pets/dog/{id}"),
            ("GET", "/pets/cat/toys", "GET /pets/{kind}/toys"),
            ("GET", "/pets/cat/1", "GET /pets/{proxy+}"),
            ("GET", "/pets/cat", "GET /pets/{proxy+}"),
            ("POST", "/test/5", "ANY /{proxy+}"),
            ("GET", "/pets/", "ANY /{proxy+}"),
            ("GET", "/", "GET /"),
            ("POST", "/", "$default"),
            ("GET", "/p%65ts/dog/1", "GET /pets/dog/1"),
        ];
        let router = router(&routes).unwrap();
        for (method, path, expected) in cases {
            let (route, _) = router.choose(method, path).unwrap();
            assert_eq!(route.route_key, expected, "{method} {path}");
        }
    }

    #[test]
    fn a_request_without_a_route_has_none() {
        let router = router(&["GET /a", "GET /b/{id}", "GET /c/{rest+}"]).unwrap();
        for (method, path) in
            [("POST", "/a"), ("GET", "/a/"), ("GET", "/"), ("GET", "/b/"), ("GET", "/b/1/2"), ("GET", "/c/")]
        {
            assert!(router.choose(method, path).is_none(), "{method} {path}");
        }
    }

    #[test]
    fn parameters_are_decoded_after_the_path_is_split() {
        let router = router(&["GET /a/{one}/{rest+}"]).unwrap();
        let (_, parameters) = router.choose("GET", "/a/x%2Fy%20z/%E4%BD%A0/%F0%9F%98%80+1").unwrap();
        assert_eq!(parameters["one"], "x/y z");
        assert_eq!(parameters["rest"], "你/😀+1");
    }

    #[test]
    fn a_bad_route_key_names_itself() {
        for key in
            ["/a", "GET a", "GET /{a+}/b", "GET /{a}/{a}", "GET /x{a}", "GET /{}", "get /a", "TRACE /a", "GET /{a b}"]
        {
            let error = router(&[key]).unwrap_err();
            assert!(matches!(&error, ConfigError::RouteKey { route_key, .. } if route_key == key), "{error}");
        }
        assert_eq!(router(&["GET /a", "GET /a"]).unwrap_err(), ConfigError::DuplicateRouteKey("GET /a".to_owned()));
    }
}
