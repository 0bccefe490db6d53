//! The host's policies, found by their number and by the security associations that they ask for: there may be thousands of either.

use std::collections::{BTreeMap, BTreeSet};

use netlink_wire::xfrm::{Policy, PolicyDirection, PolicyIndex, Reqid, Sa, SaDirection};
use offload_engine::IpsecPolicy;

/// Protocols of the kernel's tunnels: any, UDP, GRE.
const OF_TUNNELS: [u8; 3] = [0, 17, 47];

/// Policies by number.
#[derive(Debug, Default)]
pub(super) struct Policies {
    all: BTreeMap<PolicyIndex, Policy>,
    /// Those with a template of a reqid.
    of_reqid: BTreeMap<Reqid, BTreeSet<PolicyIndex>>,
}

impl Policies {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn has(&self, index: PolicyIndex) -> bool {
        self.all.contains_key(&index)
    }

    /// Keeps a policy in the place of the one with its number.
    pub(super) fn keep(&mut self, policy: Policy) {
        self.remove(policy.index);
        for template in &policy.templates {
            self.of_reqid.entry(template.reqid).or_default().insert(policy.index);
        }
        self.all.insert(policy.index, policy);
    }

    pub(super) fn remove(&mut self, index: PolicyIndex) {
        let Some(policy) = self.all.remove(&index) else { return };
        for template in &policy.templates {
            if let Some(with_it) = self.of_reqid.get_mut(&template.reqid) {
                with_it.remove(&index);
                if with_it.is_empty() {
                    self.of_reqid.remove(&template.reqid);
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets all that `stays` does not hold for.
    pub(super) fn retain(&mut self, stays: impl Fn(PolicyIndex) -> bool) {
        let gone: Vec<PolicyIndex> = self.all.keys().filter(|index| !stays(**index)).copied().collect();
        gone.into_iter().for_each(|index| self.remove(index));
    }

    fn with_reqid(&self, reqid: Reqid) -> impl Iterator<Item = &Policy> {
        let with_it = self.of_reqid.get(&reqid).into_iter().flatten();
        with_it.filter_map(|index| self.all.get(index))
    }

    /// Which way the policies use a security association.
    pub(super) fn direction(&self, sa: &Sa) -> Option<SaDirection> {
        let uses = |policy: &&Policy| {
            let meets = |dst: Option<_>| match dst {
                Some(dst) => dst == sa.id.dst,
                None => policy.selector.dst.is_some_and(|peers| peers.has(sa.id.dst)),
            };
            let mut templates = policy.templates.iter();
            templates.any(|template| template.reqid == sa.reqid && meets(template.dst))
        };
        self.with_reqid(sa.reqid).filter(uses).find_map(|policy| match policy.direction {
            PolicyDirection::In => Some(SaDirection::In),
            PolicyDirection::Out => Some(SaDirection::Out),
            _ => None,
        })
    }

    /// What they say of tunnels, in order.
    pub(super) fn protection(&self) -> Vec<IpsecPolicy> {
        let mut protection: Vec<_> = self.all.values().filter_map(protection_of).collect();
        protection.sort_unstable();
        protection.dedup();
        protection
    }
}

/// What a policy says of tunnels; none where it is about none.
fn protection_of(policy: &Policy) -> Option<IpsecPolicy> {
    let selector = &policy.selector;
    let inbound = match policy.direction {
        PolicyDirection::In => true,
        PolicyDirection::Out => false,
        _ => return None,
    };
    // Of marked packets, and of those of an interface of IPsec's own, tunnels have none.
    let is_of_others = policy.mark.1 != 0 || policy.if_id != 0;
    if is_of_others || !OF_TUNNELS.contains(&selector.proto) {
        return None;
    }
    Some(IpsecPolicy {
        priority: policy.priority,
        inbound,
        peer: if inbound { selector.src } else { selector.dst },
        proto: selector.proto,
        dport: selector.dport,
        encrypts: policy.encrypts(),
        in_host: policy.blocks || policy.encrypts() && !policy.offload.is_some_and(|offload| offload.packet),
        // A tunnel's source port is a hash.
        partly: selector.sport.1 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{policy, sa};
    use super::*;

    #[test]
    fn the_way_of_each_of_many_is_found_by_its_own_policies_alone() {
        const TUNNELS: u32 = 8_000;
        let mut policies = Policies::default();
        let of = |at: u32| {
            let mut policy = policy(at, PolicyDirection::Out);
            policy.templates[0].reqid = Reqid(at);
            policy
        };
        (1..=TUNNELS).for_each(|at| policies.keep(of(at)));
        for at in 1..=TUNNELS {
            let sa = Sa { reqid: Reqid(at), ..sa(at) };
            assert_eq!(policies.direction(&sa), Some(SaDirection::Out));
            assert_eq!(policies.with_reqid(Reqid(at)).count(), 1, "it looks at no other");
        }
    }

    #[test]
    fn a_policy_that_asks_for_others_now_is_found_by_those_alone() {
        let mut policies = Policies::default();
        policies.keep(policy(1, PolicyDirection::Out));
        let mut other = policy(1, PolicyDirection::Out);
        other.templates[0].reqid = Reqid(7);
        policies.keep(other);
        assert_eq!((policies.len(), policies.direction(&sa(1))), (1, None));
        let of_other = Sa { reqid: Reqid(7), ..sa(1) };
        assert_eq!(policies.direction(&of_other), Some(SaDirection::Out));
        policies.retain(|_| false);
        assert_eq!((policies.of_reqid.len(), policies.direction(&of_other)), (0, None));
    }
}
