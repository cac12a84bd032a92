#!/bin/sh
# Called by openconnect with a reason in its environment; see openconnect.rs. $1: where to report.
number=$(find "$1" -name 'env.*' | wc -l)
report=$1/env.$number.$reason

prefixes() { # $1: name of the counting variable; prints ADDR/LENGTH for each
    eval "count=\${$1:-0}"
    index=0
    while [ "$index" -lt "$count" ]; do
        eval "echo \${$1_${index}_ADDR}/\${$1_${index}_MASKLEN}"
        index=$((index + 1))
    done
}

routes() { # $1: family, $2: counting variable of the includes, $3: of the excludes
    if [ "$(prefixes "$2" | wc -l)" = 0 ]; then
        ip "$1" route replace default dev "$TUNDEV" || exit 1
    fi
    # One process for hundreds of routes.
    {
        prefixes "$2" | sed "s|.*|route replace & dev $TUNDEV|"
        prefixes "$3" | sed "s|.*|route replace unreachable &|"
    } | ip "$1" -batch - || exit 1
}

if [ "$reason" = connect ]; then
    ip link set dev "$TUNDEV" mtu "$INTERNAL_IP4_MTU" up || exit 1
    if [ -n "$INTERNAL_IP4_ADDRESS" ]; then
        ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV" || exit 1
        routes -4 CISCO_SPLIT_INC CISCO_SPLIT_EXC
    fi
    if [ -n "$INTERNAL_IP6_ADDRESS" ]; then
        ip -6 addr add "$INTERNAL_IP6_ADDRESS/128" dev "$TUNDEV" nodad || exit 1
        routes -6 CISCO_IPV6_SPLIT_INC CISCO_IPV6_SPLIT_EXC
    fi
fi

env -0 >"$report.part" && mv "$report.part" "$report"
