//! Every figure of every run: the tables are made of them, and so are the summary at the end and
//! the file beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::report::table;
use super::runs::{Runs, number};

/// A figure of a run: its name, how many decimals are shown, and which it is.
pub(crate) type Figure<R> = (&'static str, usize, fn(&R) -> f64);

/// Names a figure: the condition under which it was had, and what it is.
pub(crate) type Name<'a> = (&'a str, &'a str);

#[derive(Debug, Default)]
pub(crate) struct Results {
    /// The conditions of all of them.
    pub(crate) conditions: Value,
    scenarios: Vec<Scenario>,
}

#[derive(Debug, Default)]
struct Scenario {
    name: String,
    took: Duration,
    kept: Vec<Kept>,
    /// How many of them have been in a table.
    shown: usize,
    comparisons: Vec<Comparison>,
}

#[derive(Debug)]
struct Kept {
    condition: String,
    figure: String,
    decimals: usize,
    runs: Runs,
}

/// A line of the summary.
#[derive(Debug)]
struct Comparison {
    figure: String,
    measured: String,
    against: String,
    its: String,
    ratio: f64,
    target: &'static str,
}

impl Results {
    /// Figures that are kept from now on belong to this scenario.
    pub(crate) fn begin(&mut self, name: &str) {
        self.scenarios.push(Scenario { name: name.to_owned(), ..Scenario::default() });
    }

    /// The scenario is over: its figures go to the file now, so that they are there if a later one
    /// fails.
    pub(crate) fn end(&mut self, took: Duration) -> Result<()> {
        self.scenario().took = took;
        let path = path();
        std::fs::create_dir_all(path.parent().context("the file is in a directory")?)?;
        std::fs::write(&path, serde_json::to_string_pretty(&self.json())?)?;
        Ok(())
    }

    /// Keeps one figure of all runs under one condition.
    pub(crate) fn keep(&mut self, (condition, figure): Name<'_>, decimals: usize, runs: Vec<f64>) {
        let (condition, figure) = (condition.to_owned(), figure.to_owned());
        self.scenario().kept.push(Kept { condition, figure, decimals, runs: Runs(runs) });
    }

    /// Keeps these figures of all runs under one condition.
    pub(crate) fn keep_all<R>(&mut self, condition: &str, runs: &[R], figures: &[Figure<R>]) {
        for (figure, decimals, value) in figures {
            self.keep((condition, figure), *decimals, runs.iter().map(value).collect());
        }
    }

    /// Prints a table of what has been kept since the last one.
    pub(crate) fn show(&mut self) {
        let scenario = self.scenario();
        let kept = &scenario.kept[scenario.shown..];
        let (mut conditions, mut figures): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for Kept { condition, figure, .. } in kept {
            for (name, names) in [(condition, &mut conditions), (figure, &mut figures)] {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        let cell = |condition: &str, figure: &str| {
            let found = kept.iter().find(|one| one.condition == condition && one.figure == figure);
            found.map_or_else(String::new, |one| one.runs.shown(one.decimals))
        };
        // The fewer of both stand beside one another.
        let upright = conditions.len() < figures.len();
        let (down, across) = if upright { (figures, conditions) } else { (conditions, figures) };
        let head: Vec<String> = [""].iter().chain(&across).map(|&name| name.to_owned()).collect();
        let mut rows = vec![head];
        for name in down {
            let cells = across
                .iter()
                .map(|other| if upright { cell(other, name) } else { cell(name, other) });
            rows.push([name.to_owned()].into_iter().chain(cells).collect());
        }
        table(&rows);
        scenario.shown = scenario.kept.len();
    }

    /// A line of the summary: one figure beside another that was had in the same runs.
    pub(crate) fn compare(
        &mut self,
        name: Name<'_>,
        against: Name<'_>,
        target: &'static str,
    ) -> Result<()> {
        let other = self.find(against)?;
        let (limit, its) = (other.runs.median(), other.runs.shown(other.decimals));
        // Their common part is said once.
        let against = if name.1 == against.1 {
            against.0.to_owned()
        } else {
            format!("{}: {}", against.0, against.1)
        };
        self.line(name, against, its, limit, target)
    }

    /// A line of the summary: a figure beside what bounds it.
    pub(crate) fn limit(&mut self, name: Name<'_>, by: &str, limit: f64) -> Result<()> {
        let decimals = self.find(name)?.decimals;
        self.line(name, by.to_owned(), number(limit, decimals), limit, "≤ 1.00")
    }

    /// A line of the summary for a figure that has nothing beside it.
    pub(crate) fn mention(&mut self, name: Name<'_>) -> Result<()> {
        self.line(name, String::new(), String::new(), f64::NAN, "")
    }

    fn line(
        &mut self,
        name: Name<'_>,
        against: String,
        its: String,
        limit: f64,
        target: &'static str,
    ) -> Result<()> {
        let kept = self.find(name)?;
        let comparison = Comparison {
            figure: format!("{}: {}", kept.condition, kept.figure),
            measured: kept.runs.shown(kept.decimals),
            against,
            its,
            ratio: kept.runs.median() / limit,
            target,
        };
        self.scenario().comparisons.push(comparison);
        Ok(())
    }

    /// Prints all comparisons, and says where everything else is.
    pub(crate) fn sum_up(&self) {
        let head = ["scenario", "figure", "measured", "beside", "that is", "ratio", "target"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for scenario in &self.scenarios {
            for one in &scenario.comparisons {
                let ratio =
                    if one.ratio.is_nan() { String::new() } else { format!("{:.2}", one.ratio) };
                let (figure, measured) = (one.figure.clone(), one.measured.clone());
                let (against, its) = (one.against.clone(), one.its.clone());
                let target = one.target.to_owned();
                rows.push(vec![
                    scenario.name.clone(),
                    figure,
                    measured,
                    against,
                    its,
                    ratio,
                    target,
                ]);
            }
        }
        println!("\n## Summary\n");
        table(&rows);
        println!(
            "\nMedians, with the least and the most. Every figure of every run: {}",
            path().display()
        );
    }

    fn scenario(&mut self) -> &mut Scenario {
        if self.scenarios.is_empty() {
            self.scenarios.push(Scenario::default());
        }
        self.scenarios.last_mut().expect("there is one, seen above")
    }

    fn find(&mut self, (condition, figure): Name<'_>) -> Result<&Kept> {
        let kept = &self.scenario().kept;
        let found = kept.iter().find(|one| one.condition == condition && one.figure == figure);
        found.with_context(|| format!("no figure {figure:?} was kept of {condition:?}"))
    }

    fn json(&self) -> Value {
        let scenarios: Vec<_> = self.scenarios.iter().map(Scenario::json).collect();
        json!({ "conditions": self.conditions, "scenarios": scenarios })
    }
}

impl Scenario {
    fn json(&self) -> Value {
        let figures = self.kept.iter().map(|kept| {
            json!({
                "condition": kept.condition, "figure": kept.figure, "runs": kept.runs.0,
                "median": kept.runs.median(), "least": kept.runs.least(), "most": kept.runs.most(),
            })
        });
        let comparisons = self.comparisons.iter().map(|one| {
            json!({
                "figure": one.figure, "measured": one.measured, "beside": one.against,
                "that_is": one.its, "ratio": one.ratio, "target": one.target,
            })
        });
        json!({
            "name": self.name, "seconds": self.took.as_secs_f64(),
            "figures": figures.collect::<Vec<_>>(), "comparisons": comparisons.collect::<Vec<_>>(),
        })
    }
}

/// In the directory where cargo builds.
fn path() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("results.json")
}
