# Completion of flags for bash. The program knows them: kingpin has --completion-bash.
_sockstate_exporter() {
  local command=() words=("${COMP_WORDS[@]:1:COMP_CWORD}") found=
  if ((COMP_CWORD == 1)); then
    found=check
  elif [[ ${words[0]} == check ]]; then
    command=(check) words=("${words[@]:1}")
  fi
  found+=" $("$1" "${command[@]}" --completion-bash "${words[@]}" 2>/dev/null)"
  mapfile -t COMPREPLY < <(compgen -W "$found" -- "$2")
}
complete -o default -F _sockstate_exporter sockstate_exporter
