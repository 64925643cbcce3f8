//! The report: tables for people, and the same as JSON in `target/soak/report.json`.

#![expect(clippy::print_stdout, reason = "the report is what the soak is for")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::endpoints::ENDPOINTS;
use super::fleet::{COUNTED, Tally, most_memory};
use super::ledger::Complaint;
use super::reckoning::{Figures, OfEndpoint};
use super::{Course, Wanted};

pub struct Report<'a> {
    pub wanted: Wanted,
    pub course: &'a Course,
    pub figures: &'a Figures,
    pub tally: &'a Tally,
    pub sizes: &'a [(&'static str, u64)],
    pub complaints: BTreeMap<&'static str, Complaint>,
}

impl Report<'_> {
    pub fn violations(&self) -> u64 {
        self.complaints.values().map(|complaint| complaint.count).sum()
    }

    pub fn show(&self) {
        let Course { faults, faulty_for, drained_in, longest_queue, absences } = self.course;
        let count: u32 = faults.done.values().sum();
        println!(
            "\n## Soak: {count} faults in {:.1} min, seed {}\n",
            faulty_for.as_secs_f64() / 60.0,
            self.wanted.seed
        );
        table(
            &["fault", "times"],
            faults.done.iter().map(|(kind, n)| vec![(*kind).to_owned(), n.to_string()]),
        );
        println!(
            "\n{} more had no relay that was up; PostgreSQL was away for {:.1} s at most.\n",
            faults.left_out,
            faults.longest_restart.as_secs_f64()
        );
        self.show_endpoints();
        self.show_order();
        let Figures { committed, rolled_back, totals, .. } = self.figures;
        println!(
            "\nEvents: {committed} committed, {rolled_back} rolled back, {:.0} a second.",
            *committed as f64 / faulty_for.as_secs_f64()
        );
        match drained_in {
            Some(time) => println!(
                "The rest drained in {:.1} s; at most {longest_queue} deliveries were left then.",
                time.as_secs_f64()
            ),
            None => println!("The rest did not drain; {longest_queue} deliveries were left."),
        }
        println!(
            "Duplicates: {} accepted again; {} attempts of these events may have been in flight when their end was lost.\n\
             Over all: {} claims of {} dead relays released as interrupted, {} attempts interrupted by stops, {} late results dropped.",
            self.sum(|of| of.duplicates),
            self.sum(|of| of.explained),
            totals.released,
            totals.takeovers,
            totals.interrupted_by_stops,
            self.counted(1),
        );
        println!(
            "Relays: {} processes, {} of them found no database; at most {} MiB in memory; {} reaped; {} database errors; longest stop {:.1} s.",
            self.tally.processes,
            self.tally.gave_up,
            self.most_memory() / 1024,
            self.counted(0),
            self.counted(3),
            self.tally.longest_stop.as_secs_f64(),
        );
        println!("Disabled by a 410 and enabled again: {} times.", absences.len());
        let sizes: Vec<_> = self
            .sizes
            .iter()
            .map(|(name, size)| format!("{name} {} MiB", size / 1024 / 1024))
            .collect();
        println!("Disk: {}.", sizes.join(", "));
        let own = most_memory(std::process::id()).unwrap_or(0);
        println!("The receivers and the ledger took {} MiB at most.", own / 1024);
        self.show_complaints();
    }

    fn show_endpoints(&self) {
        let head = [
            "endpoint",
            "owed",
            "accepted",
            "lost",
            "strangers",
            "requests",
            "at once",
            "again",
            "may be",
            "dead",
            "held",
            "p50 ms",
            "p90",
            "p99",
            "max s",
        ];
        let rows = ENDPOINTS.iter().zip(&self.figures.endpoints).map(|(spec, of)| {
            let ms = |at: usize| format!("{:.1}", of.latencies[at] as f64 / 1e3);
            let mut row = vec![spec.name.to_owned()];
            row.extend(
                [
                    of.owed,
                    of.accepted,
                    of.lost,
                    of.strangers,
                    of.requests,
                    u64::from(of.most_in_flight),
                    of.duplicates,
                    of.explained,
                    of.dead,
                    of.held,
                ]
                .map(|n| n.to_string()),
            );
            row.extend([ms(0), ms(1), ms(2), format!("{:.1}", of.latencies[3] as f64 / 1e6)]);
            row
        });
        table(&head, rows);
        let healthy = |at: usize| {
            let all =
                ENDPOINTS.iter().zip(&self.figures.endpoints).filter(|(spec, _)| spec.is_healthy());
            all.map(|(_, of)| of.latencies[at]).max().unwrap_or(0) as f64 / 1e3
        };
        println!(
            "\nFrom COMMIT to the first arrival, of endpoints that are always well, the worst: p50 {:.1} ms, p90 {:.1} ms, p99 {:.0} ms.",
            healthy(0),
            healthy(1),
            healthy(2)
        );
        println!(
            "`again`: accepted once more. `may be`: attempts at these events whose end nobody could know."
        );
    }

    fn show_order(&self) {
        println!("\nOrder per key:\n");
        let rows =
            ENDPOINTS.iter().zip(&self.figures.endpoints).filter(|(spec, _)| spec.ordered).map(
                |(spec, of)| {
                    let mut row = vec![spec.name.to_owned()];
                    row.extend(
                        [of.in_order, of.out_of_order, of.overlaps, of.overlaps_repeated]
                            .map(|n| n.to_string()),
                    );
                    row
                },
            );
        table(
            &["endpoint", "in order", "out of order", "two at once", "at once, one of them again"],
            rows,
        );
    }

    fn show_complaints(&self) {
        for (kind, complaint) in &self.complaints {
            println!("\nWRONG, {} times: {kind}", complaint.count);
            for case in &complaint.cases {
                println!("  * {case}");
            }
        }
        match self.violations() {
            0 => println!("\nVERDICT: all is as promised."),
            n => println!("\nVERDICT: {n} violations."),
        }
    }

    fn sum(&self, of: impl Fn(&OfEndpoint) -> u64) -> u64 {
        self.figures.endpoints.iter().map(of).sum()
    }

    fn counted(&self, at: usize) -> f64 {
        self.tally.counted[at]
    }

    fn most_memory(&self) -> u64 {
        self.tally.most_memory.values().copied().max().unwrap_or(0)
    }

    pub fn keep(&self, directory: &Path) {
        let path = directory.join("report.json");
        let text = serde_json::to_string_pretty(&self.json()).expect("JSON can be written");
        std::fs::write(&path, text).expect("write the report");
        println!("Kept in {}.", directory.display());
    }

    fn json(&self) -> Value {
        let Figures { committed, rolled_back, endpoints, totals } = self.figures;
        let course = self.course;
        json!({
            "seed": self.wanted.seed,
            "seconds": course.faulty_for.as_secs_f64(),
            "faults": course.faults.done,
            "faults_left_out": course.faults.left_out,
            "longest_restart_s": course.faults.longest_restart.as_secs_f64(),
            "events": { "committed": committed, "rolled_back": rolled_back },
            "drained_in_s": course.drained_in.map(|time| time.as_secs_f64()),
            "left_at_most": course.longest_queue,
            "endpoints": ENDPOINTS.iter().zip(endpoints).map(|(spec, of)| (spec.name, of_endpoint(of))).collect::<BTreeMap<_, _>>(),
            "duplicates": { "accepted_again": self.sum(|of| of.duplicates), "may_be": self.sum(|of| of.explained) },
            "claims_released_of_the_dead": totals.released,
            "takeovers": totals.takeovers,
            "interrupted_by_stops": totals.interrupted_by_stops,
            "relays": {
                "processes": self.tally.processes,
                "found_no_database": self.tally.gave_up,
                "most_memory_kib": self.tally.most_memory,
                "longest_stop_s": self.tally.longest_stop.as_secs_f64(),
                "counted": COUNTED.iter().zip(self.tally.counted).collect::<BTreeMap<_, _>>(),
            },
            "disk_bytes": self.sizes.iter().copied().collect::<BTreeMap<_, _>>(),
            "violations": self.complaints.iter().map(|(kind, complaint)| {
                (*kind, json!({ "count": complaint.count, "cases": complaint.cases }))
            }).collect::<BTreeMap<_, _>>(),
        })
    }
}

fn of_endpoint(of: &OfEndpoint) -> Value {
    json!({
        "owed": of.owed, "accepted": of.accepted, "lost": of.lost, "strangers": of.strangers,
        "requests": of.requests, "accepted_again": of.duplicates, "may_be_again": of.explained,
        "dead": of.dead, "held": of.held, "most_in_flight": of.most_in_flight,
        "in_order": of.in_order, "out_of_order": of.out_of_order, "two_at_once": of.overlaps,
        "latency_us": { "p50": of.latencies[0], "p90": of.latencies[1], "p99": of.latencies[2], "max": of.latencies[3] },
    })
}

/// In Markdown; numbers stand to the right.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(at, name)| {
            rows.iter().map(|row| row[at].chars().count()).chain([name.len(), 3]).max().unwrap_or(0)
        })
        .collect();
    let line =
        |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate();
            let padded = padded.map(|(at, (cell, width))| {
                if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
        };
    line(&head.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let rule = |(at, width): (usize, &usize)| {
        if at == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
    };
    line(&widths.iter().enumerate().map(rule).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
