//! What engines used for the same work, beside each other, and which budgets hold.

use std::fmt;

use serde::Deserialize;

use crate::peers::BenchError;

/// The engine that budgets are about.
pub(crate) const OURS: &str = "skylark";

/// Its compaction has no way to leave repetitions out, so its rows are not ours.
pub(crate) const KEEPS_REPETITIONS: &str = "deltalake";

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Used {
    pub(crate) cpu_secs: f64,
    pub(crate) secs: f64,
    pub(crate) peak_bytes: f64,
}

/// What an output says, whatever its order is.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Said {
    pub(crate) rows: u64,
    pub(crate) digest: String,
}

/// One engine's runs.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) engine: String,
    pub(crate) runs: Vec<Used>,
    /// What it wrote, and how large that is; nothing if the work ends in memory.
    pub(crate) output: Option<(Said, u64)>,
}

impl Figures {
    /// Runs each engine so many times, in turns.
    pub(crate) fn take(
        engines: &[&str],
        runs: u32,
        mut run: impl FnMut(&str) -> Result<Used, BenchError>,
    ) -> Result<Vec<Self>, BenchError> {
        let figures =
            engines.iter().map(|engine| Self { engine: (*engine).to_owned(), runs: Vec::new(), output: None });
        let mut figures: Vec<Self> = figures.collect();
        for _ in 0..runs {
            for figures in &mut figures {
                figures.runs.push(run(&figures.engine)?);
            }
        }
        Ok(figures)
    }

    fn median(&self, of: impl Fn(&Used) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn cpu_secs(&self) -> f64 {
        self.median(|run| run.cpu_secs)
    }

    fn said(&self) -> Option<&Said> {
        self.output.as_ref().map(|(said, _)| said)
    }
}

/// What a benchmark found: text, and each budget with what was measured and whether it holds.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    budgets: Vec<(String, bool)>,
}

impl Report {
    pub(crate) fn new(heading: impl Into<String>) -> Self {
        Self { text: heading.into(), budgets: Vec::new() }
    }

    pub(crate) fn holds(&self) -> bool {
        self.budgets.iter().all(|(_, holds)| *holds)
    }

    pub(crate) fn budget(&mut self, measured: impl Into<String>, holds: bool) {
        self.budgets.push((measured.into(), holds));
    }

    /// A table of engines that worked on so many rows.
    pub(crate) fn table(&mut self, work: &str, rows: f64, engines: &[Figures]) {
        let header = ["engine", "CPU-s", "rows/CPU-s", "s", "peak MB", "output MB", "rows"].map(str::to_owned);
        let lines = engines.iter().map(|one| {
            let (bytes, said) = match &one.output {
                Some((said, bytes)) => (format!("{:.1}", *bytes as f64 / 1e6), said.rows.to_string()),
                None => (String::new(), String::new()),
            };
            let cpu_secs = one.cpu_secs();
            [
                one.engine.clone(),
                format!("{cpu_secs:.2}"),
                format!("{:.0}k", rows / cpu_secs / 1e3),
                format!("{:.2}", one.median(|run| run.secs)),
                format!("{:.0}", one.median(|run| run.peak_bytes) / 1e6),
                bytes,
                said,
            ]
        });
        let lines = [header].into_iter().chain(lines).map(|[engine, numbers @ ..]| line(&engine, &numbers));
        self.add(work, lines);
    }

    /// A table of engines with a number in each column.
    pub(crate) fn lines<'a>(
        &mut self,
        work: &str,
        header: &[&str],
        engines: impl Iterator<Item = (&'a str, Vec<f64>)>,
    ) {
        let texts = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let (first, columns) = header.split_first().unwrap_or((&"", &[]));
        let numbers = |numbers: Vec<f64>| numbers.iter().map(|it| format!("{it:.1}")).collect::<Vec<_>>();
        let lines: Vec<_> = [line(first, &texts(columns))]
            .into_iter()
            .chain(engines.map(|(engine, it)| line(engine, &numbers(it))))
            .collect();
        self.add(work, lines.into_iter());
    }

    fn add(&mut self, work: &str, lines: impl Iterator<Item = String>) {
        self.text = format!("{}\n\n{work}\n{}\n", self.text, lines.collect::<Vec<_>>().join("\n"));
    }

    /// What we may use, and that all rows are the same.
    pub(crate) fn usage(&mut self, rows: f64, per_cpu_sec: f64, most_bytes: f64, engines: &[Figures]) {
        let Some(ours) = engines.iter().find(|one| one.engine == OURS) else { return };
        let (rate, peak) = (rows / ours.cpu_secs(), ours.median(|run| run.peak_bytes));
        let measured = format!("{:.0}k rows per CPU-second, at least {:.0}k", rate / 1e3, per_cpu_sec / 1e3);
        self.budget(measured, rate >= per_cpu_sec);
        let measured = format!("{:.0} MB at most, below {:.0} MB", peak / 1e6, most_bytes / 1e6);
        self.budget(measured, peak < most_bytes);
        let mut deduplicated = engines.iter().filter(|one| one.engine != KEEPS_REPETITIONS);
        self.budget("each engine's rows are ours", deduplicated.all(|one| one.said() == ours.said()));
    }

    /// How many rows we are to do in the CPU time that another engine takes for one. Nothing is said of an engine that was not measured.
    pub(crate) fn ratio(&mut self, work: &str, least: f64, other: &str, engines: &[Figures]) {
        let cpu_secs = |name: &str| engines.iter().find(|one| one.engine == name).map(Figures::cpu_secs);
        if let Some((ours, theirs)) = cpu_secs(OURS).zip(cpu_secs(other)) {
            let ratio = theirs / ours;
            self.budget(
                format!("{work}: {ratio:.2} times {other}'s rows per CPU-second, at least {least}"),
                ratio >= least,
            );
        }
    }
}

fn line(engine: &str, numbers: &[String]) -> String {
    let numbers: String = numbers.iter().map(|number| format!(" {number:>10}")).collect();
    format!("{engine:<16}{numbers}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        for (budget, holds) in &self.budgets {
            writeln!(f, "{} {budget}", if *holds { "holds " } else { "BROKEN" })?;
        }
        Ok(())
    }
}
