//! The configuration in force, its two sources, and what is wrong with them.

use std::path::PathBuf;

use offload_engine::{Counters, ModeWanted, Recirculation, Settings};
use policies::{Micros, Rate, planner};
use tracing::{info, warn};

use crate::config::{
    Assignment, CapacitySetting, Config, CountersSetting, InstallsSetting, ModeSetting, RateSetting,
    RecirculationSetting, SavingSetting, Written, assignments_in_external_ids, read_file,
};

/// The configuration in force and how it came about.
#[derive(Debug)]
pub(crate) struct ConfigState {
    file: Option<PathBuf>,
    from_file: Written,
    from_ovsdb: Vec<Assignment>,
    config: Config,
    // What the process started with, for what needs a restart.
    at_start: Config,
    file_error: Option<String>,
    ovsdb_error: Option<String>,
}

impl ConfigState {
    /// Reads the file, if there is one.
    pub(crate) fn read(file: Option<PathBuf>) -> Result<Self, String> {
        let from_file = match &file {
            Some(path) => read_file(path).map_err(|errors| errors.to_string())?,
            None => Written::default(),
        };
        let config = Config::from_file(&[], &from_file).map_err(|errors| errors.to_string())?;
        Ok(Self {
            file,
            from_file,
            from_ovsdb: Vec::new(),
            at_start: config.clone(),
            config,
            file_error: None,
            ovsdb_error: None,
        })
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What is wrong with what is written, if it is not in force.
    pub(crate) fn error(&self) -> Option<String> {
        match (&self.file_error, &self.ovsdb_error) {
            (None, None) => None,
            (Some(error), None) | (None, Some(error)) => Some(error.clone()),
            (Some(file), Some(ovsdb)) => Some(format!("{file}\n{ovsdb}")),
        }
    }

    /// All that is set, for the event log.
    pub(crate) fn recorded(&self) -> Vec<crate::event_log::Setting> {
        crate::event_log::Setting::all(self.from_ovsdb.iter().chain(&self.from_file.assignments))
    }

    /// Keys whose change waits for a restart.
    pub(crate) fn restart_needed(&self) -> Vec<&'static str> {
        self.at_start.restart_needed(&self.config)
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// What is wrong with it; everything is as it was then.
    pub(crate) fn reload(&mut self) -> Result<(), String> {
        let Some(path) = &self.file else { return Ok(()) };
        let read = read_file(path).and_then(|from_file| {
            Config::from_file(&self.from_ovsdb, &from_file).map(|config| (from_file, config))
        });
        match read {
            Ok((from_file, config)) => {
                self.from_file = from_file;
                self.config = config;
                self.file_error = None;
                info!(file = %path.display(), "configuration read");
                Ok(())
            }
            Err(errors) => {
                let sentence = errors.to_string();
                warn!(error = %sentence, "configuration is wrong; the old one stays in force");
                self.file_error = Some(sentence.clone());
                Err(sentence)
            }
        }
    }

    /// Takes `Open_vSwitch.external_ids`. Returns whether the configuration changed.
    pub(crate) fn take_external_ids<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> bool {
        let read = assignments_in_external_ids(entries).and_then(|from_ovsdb| {
            Config::from_file(&from_ovsdb, &self.from_file).map(|config| (from_ovsdb, config))
        });
        match read {
            Ok((from_ovsdb, config)) => {
                self.from_ovsdb = from_ovsdb;
                self.ovsdb_error = None;
                let changed = self.config != config;
                self.config = config;
                changed
            }
            Err(errors) => {
                let sentence = errors.to_string();
                if self.ovsdb_error.as_ref() != Some(&sentence) {
                    warn!(error = %sentence, "configuration in OVSDB is wrong; what it had stays in force");
                }
                self.ovsdb_error = Some(sentence);
                false
            }
        }
    }
}

fn micros(time: std::time::Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The engine's part of a configuration.
pub(crate) fn engine_settings(config: &Config) -> Settings {
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let installs_per_s = small(config.nic.installs_per_s.per_s());
    let defaults = planner::Settings::default();
    Settings {
        mode: match config.mode {
            ModeSetting::Auto => ModeWanted::Auto,
            ModeSetting::Observe => ModeWanted::Observe,
            ModeSetting::Steer => ModeWanted::Steer,
            ModeSetting::Shadow => ModeWanted::Shadow,
        },
        counters: match config.steer.counters {
            CountersSetting::Exact => Counters::Exact,
            CountersSetting::Fast => Counters::Fast,
        },
        recirculation: match config.steer.recirculation {
            RecirculationSetting::Auto => Recirculation::Auto,
            RecirculationSetting::Always => Recirculation::Always,
            RecirculationSetting::Never => Recirculation::Never,
        },
        epoch: micros(config.policy.epoch),
        datapath_interval: micros(config.dump.datapath_interval),
        megaflows_max: small(config.limits.flows_max),
        new_megaflows_max: small(config.limits.new_flows_max),
        needs_guard: config.shadow.guard.is_some(),
        gaps: config.shadow.gaps,
        planner: planner::Settings {
            saving: match config.policy.saving {
                SavingSetting::Bytes => planner::Saving::Bytes,
                SavingSetting::Packets => planner::Saving::Packets,
                SavingSetting::Cpu => planner::Saving::CPU,
            },
            min_rate: match config.policy.min_rate {
                RateSetting::Bits(bits) => Rate::BytesPerSecond(bits / 8),
                RateSetting::Packets(packets) => Rate::PacketsPerSecond(packets),
            },
            min_age: micros(config.policy.min_age),
            min_residency: micros(config.policy.min_residency),
            counter_delay: micros(config.nic.counter_delay),
            hysteresis_percent: (config.policy.hysteresis * 100.0).round() as u32,
            capacity: match config.nic.capacity {
                CapacitySetting::Learn => planner::Capacity::Learned { initial: None },
                CapacitySetting::Entries(entries) => planner::Capacity::Fixed(small(entries)),
            },
            installs_per_s,
            learn_installs: config.nic.installs_per_s == InstallsSetting::Learn,
            install_burst: small(config.nic.install_burst).min(installs_per_s),
            ..defaults
        },
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> (tempfile::TempDir, PathBuf, ConfigState) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let state = ConfigState::read(Some(path.clone())).unwrap();
        (directory, path, state)
    }

    #[test]
    fn a_wrong_file_changes_nothing_and_is_told_until_it_is_right() {
        let (_directory, path, mut state) = state("[nic]\ncapacity = 64\n");
        let before = state.config().clone();
        std::fs::write(&path, "[nic]\ncapacity = \"lots\"\n").unwrap();
        let sentence = state.reload().unwrap_err();
        assert!(
            sentence
                .ends_with("c.toml:2:12: nic.capacity must be \"learn\" or a whole number without quotes")
        );
        assert_eq!(state.config(), &before);
        assert_eq!(state.error(), Some(sentence));
        std::fs::remove_file(&path).unwrap();
        assert!(state.reload().unwrap_err().contains("cannot read the configuration"));
        assert_eq!(state.config(), &before);
        std::fs::write(&path, "[nic]\ncapacity = 128\n").unwrap();
        state.reload().unwrap();
        assert_eq!(state.error(), None);
        assert_eq!(state.config().nic.capacity, CapacitySetting::Entries(128));
    }

    #[test]
    fn the_file_wins_over_ovsdb_also_after_either_changed() {
        let (_directory, path, mut state) = state("mode = \"observe\"\n");
        assert!(!state.take_external_ids([("offloadd-mode", "steer")]));
        assert!(state.take_external_ids([("offloadd-nic-capacity", "9"), ("offloadd-mode", "steer")]));
        std::fs::write(&path, "").unwrap();
        state.reload().unwrap();
        assert_eq!(state.config().mode, ModeSetting::Steer);
        assert_eq!(state.config().nic.capacity, CapacitySetting::Entries(9));
        assert!(!state.take_external_ids([("offloadd-nonsense", "1")]));
        assert!(state.error().unwrap().contains("external_ids:offloadd-nonsense: unknown key"));
        assert_eq!(state.config().mode, ModeSetting::Steer, "what OVSDB had stays in force");
    }

    #[test]
    fn what_waits_for_a_restart_is_told() {
        let (_directory, path, mut state) = state("");
        std::fs::write(&path, "[metrics]\nlisten = \"off\"\n").unwrap();
        state.reload().unwrap();
        assert_eq!(state.restart_needed(), ["metrics.listen"]);
    }

    #[test]
    fn the_engine_gets_what_was_configured() {
        let (_directory, _, state) = state(
            "mode = \"steer\"\n[policy]\nmin-rate = \"8 Mbit/s\"\nhysteresis = \"50 %\"\nepoch = \"250 ms\"\n\
             [nic]\ncapacity = 64\ninstalls-per-s = 10\n[steer]\ncounters = \"exact\"\n",
        );
        let settings = engine_settings(state.config());
        assert_eq!(settings.mode, ModeWanted::Steer);
        assert_eq!(settings.counters, Counters::Exact);
        assert_eq!(settings.epoch, Micros::from_millis(250));
        assert_eq!(settings.planner.min_rate, Rate::BytesPerSecond(1_000_000));
        assert_eq!(settings.planner.hysteresis_percent, 50);
        assert_eq!(settings.planner.capacity, planner::Capacity::Fixed(64));
        assert_eq!((settings.planner.installs_per_s, settings.planner.install_burst), (10, 10));
        assert!(!settings.planner.learn_installs);
    }

    #[test]
    fn installs_are_learned_where_file_or_ovsdb_say_so() {
        let installs = |state: &ConfigState| {
            let planner = engine_settings(state.config()).planner;
            (planner.learn_installs, planner.installs_per_s, planner.install_burst)
        };
        let (_file, _, by_file) = state("[nic]\ninstalls-per-s = \"learn\"\n");
        assert_eq!(installs(&by_file), (true, 1_000, 500));
        let (_other, _, mut state) = state("");
        assert_eq!(installs(&state), (false, 1_000, 500));
        assert!(state.take_external_ids([("offloadd-nic-installs-per-s", "20")]));
        assert_eq!(installs(&state), (false, 20, 20));
        assert!(state.take_external_ids([("offloadd-nic-installs-per-s", "learn")]));
        assert_eq!(installs(&state), (true, 1_000, 500));
        assert!(!state.take_external_ids([("offloadd-nic-installs-per-s", "teach")]));
        assert_eq!(installs(&state), (true, 1_000, 500));
    }
}
