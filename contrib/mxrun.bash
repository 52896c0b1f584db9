# Completion of mxrun in bash: it asks mxrun itself what there is.

# Of a help text: the lines of its usage, and the options without what they are about.
_mxrun_syntax() { sed -nE '1,/^$/{s/^(usage:|      ) //p}; s/^ {1,8}(-.*)/\1/p' | sed -E 's/  +[^ -].*//'; }

# Of a command, or without one mxrun's own.
_mxrun_options() { _mxrun_syntax | sed "${1:-/^mxrun [a-z]/d}" | grep -oE '(^|[ |[])--?[a-zA-Z][a-z-]*' | tr -d ' |[' | sort -u; }

# What an option takes: FILE, nothing.
_mxrun_value() { _mxrun_syntax | sed -nE "s/^(-.*, )?$1(, --[a-z-]+)? ([A-Z][A-Z=]*)$/\3/p" | head -n 1; }

# The values that the text of an option lists: "text or json".
_mxrun_choices() { sed -nE "s/^ +(-[^ ]+, )?$1 [A-Z]+ +(([a-z]+, )*[a-z]+ or [a-z]+).*/\2/p" | sed 's/,/ /g; s/ or / /'; }

# The commands, or what follows one of them: "ls|replay|purge".
_mxrun_commands() { _mxrun_syntax | sed -nE 's/^mxrun ([a-z][a-z|]*).*/\1/p' | tr '|' '\n' | sort -u; }
_mxrun_actions() { _mxrun_syntax | sed -nE "s/^mxrun $1 (.* )?([a-z]+(\|[a-z]+)+).*/\2/p" | tr '|' '\n'; }

_mxrun_add() { mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen "$@"); }

_mxrun() {
    local mxrun=${1/#\~/$HOME} cur=${COMP_WORDS[COMP_CWORD]} main help commands command='' option='' takes='' word i
    COMPREPLY=()
    main=$("$mxrun" --help 2>/dev/null </dev/null) || return 0
    help=$main
    commands=$(_mxrun_commands <<<"$main")

    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [ "$word" = = ]; then continue; fi
        if [ -n "$takes" ]; then
            takes=
        elif [[ $word == -* ]]; then
            option=$word
            takes=$(_mxrun_value "$word" <<<"$help")
        elif [ -z "$command" ]; then
            grep -qx -- "$word" <<<"$commands" || { _mxrun_files -f "$cur" && return 0; } # a script, and what follows is its own
            command=$word
            help=$("$mxrun" "$command" --help 2>/dev/null </dev/null)
        fi
    done
    [ "$cur" = = ] && cur=

    case $takes in
    FILE) _mxrun_files -f "$cur" ;;
    DIR) _mxrun_files -d "$cur" ;;
    URL) _mxrun_add -W 'amqp:// amqps:// mem://' -- "$cur" ;;
    '')
        if [[ $cur == -* ]]; then
            _mxrun_add -W "$(_mxrun_options "${command:+;}" <<<"$help")" -- "$cur"
        else
            _mxrun_files -f "$cur"
            if [ -n "$command" ]; then word=$(_mxrun_actions "$command" <<<"$main"); else word=$commands; fi
            _mxrun_add -W "$word" -- "$cur"
        fi
        ;;
    *) _mxrun_add -W "$(_mxrun_choices "$option" <<<"$help")" -- "$cur" ;;
    esac
}

_mxrun_files() {
    compopt -o filenames 2>/dev/null
    _mxrun_add "$1" -- "$2"
}

complete -F _mxrun mxrun
