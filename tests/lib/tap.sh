# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Test cases of shell scripts, printed as TAP. To be sourced; what a case prints goes to $scratch/output.

nr=0
failed=0

# ok NAME COMMAND...: a test case, which passes when the command succeeds. Its output is shown when it does not.
ok()
{
    local name=$1 result=ok
    shift
    # shellcheck disable=SC2154 # made by the script that sources this
    "$@" >"$scratch/output" 2>&1 || result="not ok"
    nr=$((nr + 1))
    echo "$result $nr - $name"
    if [ "$result" != ok ]; then
        failed=1
        sed 's/^/# /' "$scratch/output"
    fi
}

# skip NAME REASON
skip()
{
    nr=$((nr + 1))
    echo "ok $nr - $1 # SKIP $2"
}

# plan: after all cases. Fails if one of them has.
plan()
{
    echo "1..$nr"
    return "$failed"
}
