# fish completion for shmdctl(1)
# SPDX-License-Identifier: MIT
# shmdctl itself says what may come: one candidate a line, a tab, what it means.

function __shmdctl_complete
    set -l word (commandline -ct)
    # Without its quotes and backslashes, of which one may still be open
    for end in '' '"' "'"
        set -l plain (string unescape -- $word$end 2>/dev/null)
        and set word $plain
        and break
    end
    set -l words (commandline -opc) "$word"
    for line in ($words[1] complete -- $words[2..-1] 2>/dev/null)
        switch $line
            case ':files'
                set -l option (string match -r '^--[a-z-]+=' -- $word)
                __fish_complete_path (string replace -r '^--[a-z-]+=' '' -- $word) | string replace -r -- '^' "$option"
            case ':users'
                set -l option (string match -r '^--[a-z-]+=' -- $word)
                __fish_complete_users | string replace -r -- '^' "$option"
            case ':commands'
                __fish_complete_command
            case '*'
                printf '%s\n' $line
        end
    end
end

complete -c shmdctl -f -a '(__shmdctl_complete)'
