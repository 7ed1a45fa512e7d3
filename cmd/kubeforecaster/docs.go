package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// newDocsCommand prints docs/cli.md; `make verify` holds the file to it.
func newDocsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "docs",
		Short:  "Print the reference of the command line as Markdown",
		Hidden: true,
		Args:   noArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			w := cmd.OutOrStdout()
			fmt.Fprint(w, "# Command line\n\nWritten by `make generate` from the binary's own help; do not edit.\n\n"+
				"Results go to standard output, remarks to standard error. Exit codes: 0 done, 1 failed, 2 misused.\n")
			for _, c := range cmd.Root().Commands() {
				if !c.Hidden && c.Name() != "help" {
					writeHelp(w, c)
				}
			}
		},
	}
}

func writeHelp(w io.Writer, c *cobra.Command) {
	c.InitDefaultHelpFlag()
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n```text\n%s```\n", c.CommandPath(), c.Short, c.UsageString())
}
