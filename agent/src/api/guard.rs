//! Who may ask: programs on this machine, and pages that this endpoint itself served; never a page of another
//! site in a browser on this machine.

use super::problem::Problem;
use flotilla_protocol::ErrorCode;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, StatusCode, header};
use std::net::IpAddr;

/// Checks where a request says it comes from and goes to.
pub(super) fn check(request: &Parts) -> Result<(), Problem> {
    let authority = authority(request)?;
    if !is_this_machine(authority.host()) {
        return Err(Problem::forbidden(
            "the Host header must name this machine: localhost, 127.0.0.1 or [::1]",
        ));
    }
    let own = format!("http://{authority}");
    let foreign_origin =
        |origin: &HeaderValue| !origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(&own));
    if request.headers.get_all(header::ORIGIN).iter().any(foreign_origin) {
        return Err(Problem::forbidden("pages of other origins may not use this endpoint"));
    }
    // Browsers leave Origin away on simple reads, but not this.
    let foreign_site = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    if request.headers.get_all("sec-fetch-site").iter().any(foreign_site) {
        return Err(Problem::forbidden("pages of other sites may not use this endpoint"));
    }
    Ok(())
}

/// The one host that the request names. A target in absolute form must name the same.
fn authority(request: &Parts) -> Result<Authority, Problem> {
    let bad = || {
        Problem::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidInput,
            "exactly one valid Host header is needed",
        )
    };
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(bad()) };
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| bad())?;
    if authority.as_str().contains('@') || request.uri.authority().is_some_and(|target| *target != authority)
    {
        return Err(bad());
    }
    Ok(authority)
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn verdict(target: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts).err().map(|problem| problem.into_response().status())
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        for host in ["localhost", "LocalHost:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert_eq!(verdict("/", &[("host", host)]), None, "{host}");
        }
        for host in
            ["example.org", "localhost.example.org:80", "192.168.0.1", "0.0.0.0", "[::]:80", "2130706433"]
        {
            assert_eq!(verdict("/", &[("host", host)]), Some(StatusCode::FORBIDDEN), "{host}");
        }
        for host in ["", "a b", "me@localhost"] {
            assert_eq!(verdict("/", &[("host", host)]), Some(StatusCode::BAD_REQUEST), "{host:?}");
        }
        assert_eq!(verdict("/", &[]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(
            verdict("/", &[("host", "localhost"), ("host", "localhost")]),
            Some(StatusCode::BAD_REQUEST)
        );
        assert_eq!(verdict("http://evil.test/", &[("host", "localhost")]), Some(StatusCode::BAD_REQUEST));
        assert_eq!(verdict("http://localhost/", &[("host", "localhost")]), None);
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let with = |name, value| verdict("/", &[("host", "localhost:8080"), (name, value)]);
        assert_eq!(with("origin", "http://localhost:8080"), None);
        for origin in ["http://localhost:3000", "https://localhost:8080", "http://evil.test", "null", ""] {
            assert_eq!(with("origin", origin), Some(StatusCode::FORBIDDEN), "{origin:?}");
        }
        assert_eq!(with("sec-fetch-site", "same-origin"), None);
        assert_eq!(with("sec-fetch-site", "none"), None);
        for site in ["cross-site", "same-site"] {
            assert_eq!(with("sec-fetch-site", site), Some(StatusCode::FORBIDDEN), "{site}");
        }
    }
}
