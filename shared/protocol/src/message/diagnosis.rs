//! What a device finds when it examines itself: the report of its doctor.

use crate::{ErrorCode, limits};
use serde::{Deserialize, Serialize};

/// The findings of one examination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// When, by the device's own clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// Version of the agent that examined.
    pub agent: String,
    /// What was found, at most [`limits::DIAGNOSIS_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings that found no room; those that matter least go first.
    #[serde(default)]
    pub left_out: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// How it is.
    pub verdict: Verdict,
    /// The stable code, for what is not well.
    #[serde(default)]
    pub code: Option<ErrorCode>,
    /// What was found, for people; at most [`limits::DIAGNOSIS_TEXT`] bytes.
    pub what: String,
    /// What to do about it; empty if nothing. At most [`limits::DIAGNOSIS_TEXT`] bytes.
    #[serde(default)]
    pub remedy: String,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The agent itself and its configuration.
    Agent,
    /// Key, certificate and CA.
    Certificates,
    /// The accepted trust file.
    Trust,
    /// The device's clock.
    Clock,
    /// The disk of the agent's folder.
    Disk,
    /// The way to the control plane.
    Link,
    /// The hardware and its profile.
    Board,
    /// The update journals.
    Journal,
    /// The releases in their slots.
    Slots,
    /// The accepted desired document, and the small files beside it.
    Desired,
    /// Records that wait for the cloud.
    Outbox,
    /// A subject of a newer agent.
    #[serde(other)]
    Unknown,
}

impl Subject {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Subject::Agent => "agent",
            Subject::Certificates => "certificates",
            Subject::Trust => "trust",
            Subject::Clock => "clock",
            Subject::Disk => "disk",
            Subject::Link => "link",
            Subject::Board => "board",
            Subject::Journal => "journal",
            Subject::Slots => "slots",
            Subject::Desired => "desired",
            Subject::Outbox => "outbox",
            Subject::Unknown => "unknown",
        }
    }
}

/// How something is. The order is that of concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Well.
    Ok,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// A verdict of a newer agent.
    #[serde(other)]
    Unknown,
}

impl Verdict {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
            Verdict::Unknown => "unknown",
        }
    }
}

impl Diagnosis {
    /// Findings with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// The same within its bounds, each text on one line: what a device sends, and what the cloud makes of what a
    /// device sent. Of too many findings those that matter least are left out, the last first.
    pub fn bounded(mut self) -> Self {
        self.agent = line(&self.agent, limits::ID);
        while self.findings.len() > limits::DIAGNOSIS_FINDINGS {
            let verdicts = self.findings.iter().map(|finding| finding.verdict).enumerate();
            let Some((least, _)) = verdicts.rev().min_by_key(|(_, verdict)| *verdict) else { break };
            self.findings.remove(least);
            self.left_out = self.left_out.saturating_add(1);
        }
        for finding in &mut self.findings {
            finding.what = line(&finding.what, limits::DIAGNOSIS_TEXT);
            finding.remedy = line(&finding.remedy, limits::DIAGNOSIS_TEXT);
        }
        self
    }
}

/// One line of at most `max` bytes that an encoder does not have to escape: JSON would double or multiply it.
fn line(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let plain = |c: char| match c {
        '"' => '\'',
        '\\' => '/',
        c if c.is_ascii_control() => ' ',
        c => c,
    };
    text[..end].chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, what: String) -> Finding {
        Finding { subject: Subject::Slots, verdict, code: None, remedy: what.clone(), what }
    }

    #[test]
    fn a_diagnosis_keeps_what_matters_within_its_bounds() {
        let mut findings = vec![finding(Verdict::Fail, "first".into())];
        findings.extend((0..100).map(|n| finding(Verdict::Ok, format!("ok {n}"))));
        findings.push(finding(Verdict::Fail, "ü\n\"\\".repeat(500)));
        findings.push(finding(Verdict::Warn, "last".into()));
        let kept = Diagnosis { at_ms: 1, agent: "9".repeat(900), findings, left_out: 0 }.bounded();
        assert_eq!(kept.findings.len(), limits::DIAGNOSIS_FINDINGS);
        assert_eq!(kept.left_out as usize, 103 - limits::DIAGNOSIS_FINDINGS);
        assert_eq!((kept.count(Verdict::Fail), kept.count(Verdict::Warn)), (2, 1));
        assert_eq!(kept.findings[1].what, "ok 0", "the last ones are left out first");
        let long = &kept.findings[kept.findings.len() - 2].what;
        assert!(long.len() <= limits::DIAGNOSIS_TEXT && !long.contains(['\n', '"', '\\']), "{long}");
        assert_eq!(kept.clone().bounded(), kept, "what is within its bounds stays as it is");
    }
}
