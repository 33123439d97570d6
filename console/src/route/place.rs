//! Places and moments of logs as callers write them: which log is meant when they name none.

use bus_schema::subject;

use crate::{api::Api, ports::Moment, problem::Problem};

/// The log of `STREAM:1234`; a time has colons, too, and no such name before them.
pub(super) fn log_of(text: &str) -> Option<String> {
    let (stream, seq) = text.rsplit_once(':')?;
    (stream.starts_with("FARSIDE_") && seq.parse::<u64>().is_ok()).then(|| stream.to_owned())
}

/// The site's log, when there is only one.
pub(super) fn only_log(api: &Api) -> Option<String> {
    match api.parts.sites.as_slice() {
        [site] => Some(subject::site_stream(site)),
        _ => None,
    }
}

/// A sequence could be of several logs.
pub(super) fn of_several(text: &str) -> String {
    format!("{text:?} could be of several logs; write STREAM:{text}, or name the log")
}

/// `STREAM:1234`, or `1234` of the only site. Errors: 400 says what to write.
pub(super) fn place(api: &Api, text: &str) -> Result<(String, u64), Problem> {
    let seq = |text: &str| text.parse::<u64>().ok().filter(|seq| *seq > 0);
    let found = match text.rsplit_once(':') {
        Some((stream, number)) => seq(number).map(|seq| (stream.to_owned(), seq)),
        None => match (seq(text), only_log(api)) {
            (Some(seq), Some(stream)) => Some((stream, seq)),
            (Some(_), None) => return Err(Problem::bad_request(of_several(text))),
            (None, _) => None,
        },
    };
    let (stream, seq) = found.ok_or_else(|| {
        Problem::bad_request(format!(
            "{text:?} is no place in a log; write STREAM:1234, or 1234 of the only site's"
        ))
    })?;
    let logs = logs(api);
    if logs.contains(&stream) {
        return Ok((stream, seq));
    }
    Err(Problem::not_found(format!("there is no log {stream}; name one of {}", logs.join(", "))))
}

/// A moment of one site log. Errors: 400 when it could be of several, or is none; 404 for a log that is no site's.
pub(super) fn moment(api: &Api, text: &str, stream: Option<String>) -> Result<(String, Moment), Problem> {
    let stream = stream.or_else(|| log_of(text)).or_else(|| only_log(api));
    let stream = stream.ok_or_else(|| Problem::bad_request(of_several(text)))?;
    let sites: Vec<_> = api.parts.sites.iter().map(subject::site_stream).collect();
    if !sites.contains(&stream) {
        let text = format!("{stream} is no site's log; name one of {}", sites.join(", "));
        return Err(Problem::not_found(text));
    }
    let moment = Moment::read(text, &stream).map_err(Problem::bad_request)?;
    Ok((stream, moment))
}

/// Every log that is projected.
fn logs(api: &Api) -> Vec<String> {
    let sites = api.parts.sites.iter().map(subject::site_stream);
    sites.chain([subject::target_stream(&api.parts.target)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_its_log_and_a_time_names_none() {
        assert_eq!(log_of("FARSIDE_LOCAL:12"), Some("FARSIDE_LOCAL".to_owned()));
        for text in ["12", "2026-11-22T04:31:48Z", "FARSIDE_LOCAL"] {
            assert_eq!(log_of(text), None);
        }
    }
}
