# fish completion for shmdctl(1)
# SPDX-License-Identifier: MIT
# shmdctl itself says what may come: one candidate a line, a tab, what it means.

function __shmdctl_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] complete -- $words[2..-1] 2>/dev/null)
        switch $line
            case ':files'
                __fish_complete_path (commandline -ct | string replace -r '^--[a-z-]+=' '')
            case ':users'
                __fish_complete_users
            case ':commands'
                __fish_complete_command
            case '*'
                printf '%s\n' $line
        end
    end
end

complete -c shmdctl -f -a '(__shmdctl_complete)'
