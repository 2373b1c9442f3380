//! One line of JSON for each figure. Every suite, of either language, writes these.

/// What a figure is about.
#[derive(Debug, Clone, Default)]
pub struct About {
    pub suite: &'static str,
    pub workload: String,
    pub subject: String,
    pub keys: usize,
    pub sessions: usize,
    pub threads: usize,
}

/// Prints the median of `values`, with the distance between their quartiles as spread.
pub fn figure(about: &About, metric: &str, unit: &str, values: &[f64]) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let spread = quantile(&sorted, 0.75) - quantile(&sorted, 0.25);
    let line = serde_json::json!({
        "suite": about.suite,
        "workload": about.workload,
        "subject": about.subject,
        "keys": about.keys,
        "sessions": about.sessions,
        "threads": about.threads,
        "metric": metric,
        "median": rounded(quantile(&sorted, 0.5)),
        "spread": rounded(spread),
        "n": sorted.len(),
        "unit": unit,
    });
    println!("{line}");
}

/// Four digits are more than any of these figures is worth.
fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(4 - x.abs().log10().ceil() as i32);
    (x * scale).round() / scale
}

/// Of sorted values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1)) as f64 * q;
    let (low, high) = (sorted.get(at.floor() as usize), sorted.get(at.ceil() as usize));
    match (low, high) {
        (Some(low), Some(high)) => low + (high - low) * at.fract(),
        _ => 0.0,
    }
}

/// Nanoseconds that the threads of a process have run which are there now.
pub fn processor_time(process: &str) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return 0.0 };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split(' ').next()?.parse::<f64>().ok())
        .sum()
}
